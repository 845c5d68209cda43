//! The HTTP client under every store of the network: paced to a bandwidth, and given up when nothing moves.
//!
//! A limit on the whole request's time would forbid slow lines; here only standing still counts.

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody,
    HttpService,
};
use object_store::{ClientConfigKey, ClientOptions};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::time::Sleep;

/// Bytes that go at once.
const SLICE: usize = 64 << 10;

/// Divides a bandwidth among all who use it.
#[derive(Debug)]
pub(super) struct Pace {
    rate: f64,
    free: Mutex<Instant>,
}

impl Pace {
    pub fn new(bytes_per_second: u64) -> Self {
        Self { rate: bytes_per_second.max(1) as f64, free: Mutex::new(Instant::now()) }
    }

    /// Counts `bytes` that went; so long nobody may go on.
    pub fn spend(&self, bytes: usize) -> Duration {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        *free = (*free).max(now) + Duration::from_secs_f64(bytes as f64 / self.rate);
        *free - now
    }
}

/// Makes clients.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    pub pace: Option<Arc<Pace>>,
    /// How long nothing may move.
    pub idle: Duration,
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let failed = |e: reqwest::Error| object_store::Error::Generic { store: "HTTP", source: e.into() };
        let plain = options.get_config_value(&ClientConfigKey::AllowHttp).is_some_and(|v| v == "true");
        // where an instance's own credentials are asked for, object_store wishes a second
        let wished = options.get_config_value(&ClientConfigKey::ConnectTimeout);
        let seconds = wished.and_then(|v| v.strip_suffix('s')?.parse().ok()).unwrap_or(10);
        let client = reqwest::Client::builder()
            .user_agent(concat!("blkdelta/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(seconds))
            .https_only(!plain)
            .http1_only()
            .build()
            .map_err(failed)?;
        Ok(HttpClient::new(Paced { client, with: self.clone() }))
    }
}

#[derive(Debug)]
struct Paced {
    client: reqwest::Client,
    with: Connector,
}

type Answer<'a> = Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'a>>;

impl HttpService for Paced {
    fn call<'a, 'b>(&'a self, request: HttpRequest) -> Answer<'b>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(self.send(request))
    }
}

impl Paced {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        let url = parts.uri.to_string().parse::<reqwest::Url>();
        let url = url.map_err(|e| HttpError::new(HttpErrorKind::Unknown, e))?;
        let mut request = reqwest::Request::new(parts.method, url);
        *request.headers_mut() = parts.headers;
        let moved = Arc::new(Moved::default());
        if body.content_length() > 0 {
            let body = Moving::new(body, self.with.clone(), Some(Arc::clone(&moved)));
            *request.body_mut() = Some(reqwest::Body::wrap(body));
        }
        let answer = self.answer(request, &moved).await?;
        let mut response = HttpResponse::new(Vec::new().into());
        *response.status_mut() = answer.status();
        *response.headers_mut() = answer.headers().clone();
        let body = Failing(reqwest::Body::from(answer));
        *response.body_mut() = HttpResponseBody::new(Moving::new(body, self.with.clone(), None));
        Ok(response)
    }

    /// The head of the answer; given up when neither bytes go nor an answer comes.
    async fn answer(&self, request: reqwest::Request, moved: &Moved) -> Result<reqwest::Response, HttpError> {
        let mut sending = std::pin::pin!(self.client.execute(request));
        loop {
            tokio::select! {
                answer = &mut sending => return answer.map_err(failure),
                () = tokio::time::sleep(self.with.idle / 4) => {
                    if moved.still_for() > self.with.idle {
                        return Err(HttpError::new(HttpErrorKind::Timeout, stands_still()));
                    }
                }
            }
        }
    }
}

fn stands_still() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::TimedOut, "the store stands still: no byte went or came")
}

/// What a failed request means for another try.
fn failure(error: reqwest::Error) -> HttpError {
    let kind = if error.is_timeout() {
        HttpErrorKind::Timeout
    } else if error.is_connect() {
        HttpErrorKind::Connect
    } else {
        HttpErrorKind::Interrupted
    };
    HttpError::new(kind, error.without_url())
}

/// When bytes went last.
struct Moved {
    began: Instant,
    millis: AtomicU64,
}

impl Default for Moved {
    fn default() -> Self {
        Self { began: Instant::now(), millis: AtomicU64::new(0) }
    }
}

impl Moved {
    fn now(&self) {
        self.millis.store(self.began.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    fn still_for(&self) -> Duration {
        self.began.elapsed().saturating_sub(Duration::from_millis(self.millis.load(Ordering::Relaxed)))
    }
}

/// The client's body with the store's kind of error.
struct Failing(reqwest::Body);

impl Body for Failing {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        Pin::new(&mut self.0).poll_frame(cx).map_err(failure)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

/// A body on its way, in slices when it is paced.
struct Moving<B> {
    body: B,
    with: Connector,
    /// Of what goes: when it last did. What comes has a clock of its own.
    moved: Option<Arc<Moved>>,
    rest: Bytes,
    pause: Option<Pin<Box<Sleep>>>,
    idle: Option<Pin<Box<Sleep>>>,
}

impl<B> Moving<B> {
    fn new(body: B, with: Connector, moved: Option<Arc<Moved>>) -> Self {
        Self { body, with, moved, rest: Bytes::new(), pause: None, idle: None }
    }

    /// The next slice of what there is, and the pause after it.
    fn slice(&mut self) -> Bytes {
        let Some(pace) = &self.with.pace else { return std::mem::take(&mut self.rest) };
        let slice = self.rest.split_to(self.rest.len().min(SLICE));
        self.pause = Some(Box::pin(tokio::time::sleep(pace.spend(slice.len()))));
        slice
    }
}

impl<B: Body<Data = Bytes, Error = HttpError> + Unpin> Body for Moving<B> {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let this = &mut *self;
        if let Some(pause) = &mut this.pause {
            ready!(pause.as_mut().poll(cx));
            this.pause = None;
        }
        if let Some(moved) = &this.moved {
            moved.now();
        }
        if this.rest.is_empty() {
            match Pin::new(&mut this.body).poll_frame(cx) {
                Poll::Pending => {
                    let idle = this.with.idle;
                    let clock = this.idle.get_or_insert_with(|| Box::pin(tokio::time::sleep(idle)));
                    ready!(clock.as_mut().poll(cx));
                    return Poll::Ready(Some(Err(HttpError::new(HttpErrorKind::Timeout, stands_still()))));
                }
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => this.rest = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                Poll::Ready(end) => return Poll::Ready(end),
            }
            this.idle = None;
        }
        Poll::Ready(Some(Ok(Frame::data(this.slice()))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (mut hint, rest) = (self.body.size_hint(), self.rest.len() as u64);
        match hint.exact() {
            Some(exact) => hint.set_exact(exact + rest),
            None => hint.set_lower(hint.lower() + rest),
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bandwidth_is_shared_and_not_saved_up() {
        let pace = Pace::new(1000);
        std::thread::sleep(Duration::from_millis(20));
        let (first, second) = (pace.spend(500), pace.spend(500));
        assert!(first <= Duration::from_millis(500) && first > Duration::from_millis(300), "{first:?}");
        assert!(second > Duration::from_millis(800), "{second:?}");
    }
}

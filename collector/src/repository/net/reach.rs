//! Stores over the network, made from a location and the environment.

use super::access::Access;
use super::pace::Connector;
use super::profile::{self, Profile};
use super::trouble::{classify, fleeting};
use crate::error::Result;
use crate::repository::location::Bucket;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, Checksum};
use object_store::http::HttpBuilder;
use object_store::prefix::PrefixStore;
use object_store::retry::{RetryContext, RetryFailure, RetryPolicy};
use object_store::{BackoffConfig, ClientOptions, HeaderMap, HeaderValue, ObjectStore, RetryConfig};
use std::pin::Pin;
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

/// Nothing may stand still longer.
const IDLE: Duration = Duration::from_secs(60);

/// The objects of a bucket below the location's prefix.
pub(in crate::repository) fn bucket(bucket: &Bucket, access: &Access) -> Result<Arc<dyn ObjectStore>> {
    let failed = |e| classify(e, format!("reach bucket {}", bucket.name));
    let from_env = has_env("AWS_ACCESS_KEY_ID") && has_env("AWS_SECRET_ACCESS_KEY");
    let wanted = bucket.profile.as_deref();
    let profile = if from_env && wanted.is_none() { Profile::default() } else { profile::load(wanted)? };
    let asked = bucket.endpoint.clone().or_else(|| access.endpoint.clone());
    let env = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"];
    let said = || env.iter().find_map(|name| std::env::var(name).ok().filter(|v| !v.is_empty()));
    let endpoint = asked.or_else(said).or_else(|| profile.endpoint.clone());
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(&bucket.name)
        .with_http_connector(connector(access))
        .with_retry(few_retries())
        // an answer names one object, and every compatible store knows the request
        .with_disable_bulk_delete(true)
        // what the store received is compared with what was sent; Object Lock demands it
        .with_checksum_algorithm(Checksum::SHA256);
    if let Some((key, secret)) = profile.key {
        builder = builder.with_access_key_id(key).with_secret_access_key(secret);
        builder = builder.with_config(AmazonS3ConfigKey::Token, profile.token.unwrap_or_default());
    }
    let region = bucket.region.clone().or(profile.region.filter(|_| !has_env("AWS_REGION")));
    if let Some(region) = region {
        builder = builder.with_region(region);
    }
    if let Some(host) = bucket.host_style {
        builder = builder.with_virtual_hosted_style_request(host);
    }
    let plain = endpoint.as_ref().is_some_and(|url| url.starts_with("http://"));
    builder = builder.with_client_options(options(plain).with_default_headers(checksum_is_sent()));
    if let Some(endpoint) = endpoint {
        builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, hosted(endpoint, bucket));
    }
    let store = builder.build().map_err(failed)?;
    Ok(Arc::new(PrefixStore::new(store, bucket.prefix.as_str())))
}

/// The folder of a web server.
pub(in crate::repository) fn web(url: &str, access: &Access) -> Result<Arc<dyn ObjectStore>> {
    let builder = HttpBuilder::new().with_url(url).with_client_options(options(url.starts_with("http://")));
    let builder = builder.with_retry(few_retries()).with_http_connector(connector(access));
    builder.build().map(|store| Arc::new(store) as _).map_err(|e| classify(e, format!("reach {url}")))
}

fn connector(access: &Access) -> Connector {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        // an error means that the process chose another one before: that serves as well
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    Connector { pace: access.pace.clone(), idle: IDLE.min(access.patience) }
}

fn options(plain: bool) -> ClientOptions {
    ClientOptions::new().with_allow_http(plain)
}

/// Names the checksum that comes with every put: where Object Lock sets a retention, a store demands the name.
fn checksum_is_sent() -> HeaderMap {
    [("x-amz-sdk-checksum-algorithm", "SHA256")]
        .into_iter()
        .filter_map(|(name, value)| Some((name.parse().ok()?, HeaderValue::from_static(value))))
        .collect()
}

/// With the bucket's name in the host's name, if so wished.
fn hosted(endpoint: String, bucket: &Bucket) -> String {
    match endpoint.split_once("://") {
        Some((scheme, host)) if bucket.host_style == Some(true) => {
            format!("{scheme}://{}.{host}", bucket.name)
        }
        _ => endpoint,
    }
}

/// object_store's own retries catch what passes at once; [`Patience`] goes on after them, signing anew.
fn few_retries() -> RetryConfig {
    let backoff = BackoffConfig {
        init_backoff: Duration::from_millis(100),
        max_backoff: Duration::from_secs(2),
        base: 2.,
    };
    RetryConfig { backoff, max_retries: 2, retry_timeout: Duration::from_secs(30) }
}

fn has_env(name: &str) -> bool {
    std::env::var_os(name).is_some_and(|value| !value.is_empty())
}

/// Tries again what may pass, with growing pauses, until a limit.
#[derive(Debug)]
pub(in crate::repository) struct Patience {
    began: Instant,
    limit: Duration,
    pause: Duration,
}

impl Patience {
    pub fn new(limit: Duration) -> Self {
        Self { began: Instant::now(), limit, pause: Duration::from_millis(200) }
    }

    /// The pause before the next try; `None` if there is none.
    pub fn next(&mut self, error: &object_store::Error) -> Option<Duration> {
        let pause = self.pause;
        self.pause = (pause * 2).min(Duration::from_secs(10));
        (fleeting(error) && self.began.elapsed() + pause < self.limit).then_some(pause)
    }
}

impl RetryPolicy for Patience {
    fn retry<'a, 'b>(&'a self, context: RetryContext) -> Pin<Box<dyn Future<Output = bool> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            let may_pass = match context.failure {
                RetryFailure::Status(s) => s.is_server_error() || matches!(s.as_u16(), 200 | 408 | 429),
                _ => true,
            };
            let pause = Duration::from_millis(200 << context.attempt.min(5));
            if !may_pass || context.elapsed + pause >= self.limit {
                return false;
            }
            tokio::time::sleep(pause).await;
            true
        })
    }
}

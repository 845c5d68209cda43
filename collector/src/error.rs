//! The library's one error: what was tried on what, why it failed, what to do.
//!
//! The [`Kind`] decides what may happen next; the text is for the person reading it. Contexts are
//! lower case, without a full stop, and never repeat the source. `anyhow` is used only at the edge.

use std::fmt;

/// What kind of failure it is: decides what the caller may do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// The request makes no sense as given (exit code 2).
    Usage,
    /// The named thing does not exist.
    NotFound,
    /// It exists already, and must not.
    Exists,
    /// The kernel, device or store cannot do this; trying again will not help.
    Unsupported,
    /// Another process holds it; try again later.
    Busy,
    /// The operating system or the store failed.
    Io,
    /// The store cannot be reached: network, server, bucket. Nothing follows about its objects.
    Unreachable,
    /// No room left.
    NoSpace,
    /// Stored bytes are not what was written (exit code 3).
    Damaged,
    /// A format version or feature this program does not know.
    Incompatible,
    /// Not permitted: root or a capability is missing.
    Denied,
    /// Stopped by a signal or by the user.
    Interrupted,
    /// Our own mistake: an invariant does not hold.
    Bug,
}

/// An error with its kind, what was attempted, what to do about it, and its cause.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    context: String,
    hint: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync + 'static>>,
}

/// `Result` with the library's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error without a cause below it.
    pub fn new(kind: Kind, context: impl Into<String>) -> Self {
        Self { kind, context: context.into(), hint: None, source: None }
    }

    /// An error caused by another one.
    pub fn caused(
        kind: Kind,
        context: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync + 'static>>,
    ) -> Self {
        Self { kind, context: context.into(), hint: None, source: Some(source.into()) }
    }

    /// An operating system error; its kind follows from the error number.
    pub fn os(context: impl Into<String>, source: impl Into<std::io::Error>) -> Self {
        let source = source.into();
        let kind = match source.kind() {
            std::io::ErrorKind::NotFound => Kind::NotFound,
            std::io::ErrorKind::AlreadyExists => Kind::Exists,
            std::io::ErrorKind::PermissionDenied => Kind::Denied,
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Kind::NoSpace,
            std::io::ErrorKind::ResourceBusy => Kind::Busy,
            std::io::ErrorKind::Unsupported => Kind::Unsupported,
            _ => Kind::Io,
        };
        Self::caused(kind, context, source)
    }

    /// Adds what the reader can do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Puts a wider context around this error; kind and hint stay.
    #[must_use]
    pub fn within(self, context: impl Into<String>) -> Self {
        Self {
            kind: self.kind,
            context: context.into(),
            hint: self.hint.clone(),
            source: Some(Box::new(Self { hint: None, ..self })),
        }
    }

    /// The kind.
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// It and all its causes, on one line.
    pub fn in_full(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(e) = cause {
            text = format!("{text}: {e}");
            cause = e.source();
        }
        text
    }

    /// What the reader can do, if we know.
    pub fn advice(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|e| e as &(dyn std::error::Error + 'static))
    }
}

/// Puts context on results.
pub trait Context<T> {
    /// Context for an operating system error.
    ///
    /// # Errors
    /// The same failure, with its context.
    fn os_context(self, context: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<std::io::Error>> Context<T> for std::result::Result<T, E> {
    fn os_context(self, context: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| Error::os(context(), e))
    }
}

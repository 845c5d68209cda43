//! `track`, `untrack`, `status` and `diff`; and what other verbs need of the tracking.

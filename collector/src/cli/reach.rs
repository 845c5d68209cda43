//! How stores over the network are reached: options of every verb.

use crate::config::values::bandwidth;
use crate::repository::{Access, endpoint};
use clap::Args;
use std::time::Duration;

/// Options of every verb.
#[derive(Debug, Args)]
#[command(next_help_heading = "Stores (--repo /FOLDER, s3://BUCKET/PREFIX, https://HOST/PATH)")]
pub struct Reach {
    /// Server of S3 other than Amazon's; else AWS_ENDPOINT_URL
    #[arg(long, global = true, value_parser = endpoint, value_name = "URL")]
    s3_endpoint: Option<String>,
    /// At most so much a second to and from all stores together, folders too: 50MiB/s
    #[arg(long, global = true, value_parser = bandwidth, value_name = "RATE")]
    bandwidth: Option<u64>,
    /// Try a request again for so long before it has failed
    #[arg(long, global = true, default_value = "3m", value_parser = super::args::duration, value_name = "TIME")]
    retry_for: Duration,
    /// Take the writer's lock from a process that is known to be dead
    #[arg(long, global = true)]
    break_lock: bool,
}

impl Reach {
    /// Bytes per second.
    pub const fn bandwidth(&self) -> Option<u64> {
        self.bandwidth
    }

    /// Makes these the way in which stores are reached.
    pub fn choose(&self) {
        let mut access = Access::default();
        access.endpoint.clone_from(&self.s3_endpoint);
        access.patience = self.retry_for;
        access.break_lock = self.break_lock;
        self.bandwidth.map_or(access.clone(), |rate| access.bandwidth(rate)).choose();
    }
}

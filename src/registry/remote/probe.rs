//! What is known of one host after it has answered, for who looks at it alone.

use url::Url;

use crate::base::Digest;
use crate::registry::auth::Authentication;
use crate::registry::endpoint::shown_host;

use super::Remote;

impl Remote {
    /// The address that answers, once one did.
    pub(in crate::registry) fn answering(&self) -> Option<&Url> {
        self.endpoint.settled()
    }

    /// What it asked for, and what it got.
    pub(in crate::registry) fn authentication(&self) -> Authentication {
        self.authority.account()
    }

    /// The host of the store that it redirected to for the blob `digest`, the last time.
    pub(in crate::registry) fn store_of(&self, digest: &Digest) -> Option<String> {
        self.targets.get(digest).map(|url| shown_host(&url))
    }
}

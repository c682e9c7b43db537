//! The address of a server.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The address of a server; its `Debug` leaves out anything that may be secret.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Endpoint(pub String);

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        shown(&self.0).fmt(f)
    }
}

/// Refuses a URL that is not a plain server address. A user, password or query would not be used, and error
/// messages, which name the endpoint, could reveal it.
pub(super) fn check_endpoint(url: &str) -> Result<()> {
    let rest = ["http://", "https://"].iter().find_map(|scheme| url.strip_prefix(scheme));
    let is_address = |rest: &str| {
        let authority = rest.split('/').next().unwrap_or_default();
        !authority.is_empty() && !rest.contains(['@', '?', '#'])
    };
    if rest.is_some_and(is_address) {
        return Ok(());
    }
    let allowed = "http://host:port or https://host, without user, password or query";
    Err(Error::param("endpoint_url", shown(url), allowed))
}

/// A URL as messages may show it: only its scheme if it may hold a user, password, query or fragment.
pub(super) fn shown(url: &str) -> String {
    if !url.contains(['@', '?', '#']) {
        return url.to_owned();
    }
    let scheme = url.find("://").map_or(0, |at| at + 3);
    // Anything before an `@` may be a password.
    if url[..scheme].contains(['@', '?', '#']) {
        "..".to_owned()
    } else {
        format!("{}..", &url[..scheme])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_an_address_and_shown_without_secrets() {
        for url in ["http://localhost:9000", "https://h", "http://[::1]:9000/base/"] {
            assert!(check_endpoint(url).is_ok() && shown(url) == url, "{url}");
        }
        for (url, shown) in [
            ("http://user:pa@ss/wo?rd@host:1/x?token=secret", "http://.."),
            ("https://user@host", "https://.."),
            ("user:password@host", ".."),
            ("us@er://password@host", ".."),
            ("http://host#secret", "http://.."),
            ("http:///x", "http:///x"),
            ("http://", "http://"),
            ("localhost:9000", "localhost:9000"),
        ] {
            let line = check_endpoint(url).unwrap_err().to_line();
            assert!(line.contains(&format!("endpoint_url: {shown} (")), "{line}");
        }
    }
}

//! For whom a request is meant: a page of some other site that had its name point here (DNS rebinding) gets nothing.

use std::net::IpAddr;

use hyper::{Request, header::HOST, http::uri::Authority};

/// The names that the listener answers to, beside `localhost` and every IP address.
pub struct Hosts(Vec<String>);

/// Why a request is not answered.
#[derive(Debug, PartialEq, Eq)]
pub enum Astray {
    /// It names no host.
    Nameless,
    /// It names another one.
    Elsewhere,
}

impl Hosts {
    /// These names.
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        let names = names.into_iter().map(|name| name.to_ascii_lowercase());
        Self(names.collect())
    }

    /// Whether a request is for this listener.
    pub fn admit<T>(&self, request: &Request<T>) -> Result<(), Astray> {
        let mut fields = request.headers().get_all(HOST).iter();
        let (Some(host), None) = (fields.next(), fields.next()) else {
            return Err(Astray::Nameless);
        };
        let host = Authority::try_from(host.as_bytes()).map_err(|_| Astray::Nameless)?;
        // Of a request as a proxy gets it, the name in its first line counts, too.
        let meant = [Some(&host), request.uri().authority()];
        match meant.into_iter().flatten().all(|host| self.is_ours(host)) {
            true => Ok(()),
            false => Err(Astray::Elsewhere),
        }
    }

    fn is_ours(&self, authority: &Authority) -> bool {
        if authority.as_str().contains('@') {
            return false;
        }
        let host = authority.host().to_ascii_lowercase();
        let bare = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
        bare.unwrap_or(&host).parse::<IpAddr>().is_ok()
            || host == "localhost"
            || self.0.contains(&host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(host: &str) -> bool {
        let hosts = Hosts::new(["Hub.example.org".to_owned()]);
        let request = Request::builder().uri("/").header(HOST, host).body(());
        hosts.admit(&request.unwrap()).is_ok()
    }

    #[test]
    fn loopback_addresses_and_its_own_name_are_answered_and_no_other() {
        for ours in [
            "localhost",
            "LOCALHOST:9464",
            "127.0.0.1:9464",
            "192.0.2.7",
            "[::1]:9464",
            "hub.example.org:80",
        ] {
            assert!(admitted(ours), "{ours}");
        }
        for other in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "evil.example@localhost",
            "localhost@evil.example",
            "a b",
        ] {
            assert!(!admitted(other), "{other}");
        }
        let request = |uri: &str| Request::builder().uri(uri).header(HOST, "localhost");
        let hosts = Hosts::new([]);
        let elsewhere = request("http://evil.example/").body(()).unwrap();
        assert_eq!(hosts.admit(&elsewhere), Err(Astray::Elsewhere));
        let twice = request("/").header(HOST, "evil.example").body(()).unwrap();
        assert_eq!(hosts.admit(&twice), Err(Astray::Nameless));
    }
}

//! Where the server listens.

use std::{fmt, net::IpAddr, str::FromStr};

use rustls::pki_types::{DnsName, ServerName};

use crate::error::{Error, Result, malformed};

/// A host: a DNS name or an IP address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// A DNS name, as a certificate lists it.
    Dns(String),
    /// An IP address.
    Ip(IpAddr),
}

impl Host {
    /// Parses a DNS name or an IP address (IPv6 without brackets).
    pub fn new(text: &str) -> Result<Self> {
        if let Ok(ip) = text.parse() {
            return Ok(Self::Ip(ip));
        }
        let shown: String = text.chars().take(80).collect();
        let name = DnsName::try_from(text)
            .map_err(|_| malformed("host", format!("{shown:?} is no DNS name or IP address")))?;
        Ok(Self::Dns(name.as_ref().to_ascii_lowercase()))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => f.write_str(name),
            Self::Ip(ip) => ip.fmt(f),
        }
    }
}

impl FromStr for Host {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::new(text)
    }
}

/// `HOST:PORT`; an IPv6 address in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    host: Host,
    port: u16,
}

impl Endpoint {
    /// The endpoint of a host and a port other than 0.
    pub fn new(host: Host, port: u16) -> Result<Self> {
        if port == 0 {
            return Err(malformed("endpoint", "port 0"));
        }
        Ok(Self { host, port })
    }

    /// Host.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `https://HOST:PORT`.
    pub fn uri(&self) -> String {
        format!("https://{self}")
    }

    /// What the server's certificate must be valid for.
    pub fn server_name(&self) -> Result<ServerName<'static>> {
        match &self.host {
            Host::Ip(ip) => Ok(ServerName::from(*ip)),
            Host::Dns(name) => {
                ServerName::try_from(name.clone()).map_err(|_| malformed("host", "not a DNS name"))
            }
        }
    }
}

impl FromStr for Endpoint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            let shown: String = text.chars().take(80).collect();
            malformed("endpoint", format!("{shown:?} is not HOST:PORT"))
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let host = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            Some(inside) => Host::Ip(IpAddr::V6(inside.parse().map_err(|_| wrong())?)),
            None if host.contains(':') => return Err(wrong()),
            None => Host::new(host)?,
        };
        if !port.bytes().all(|b| b.is_ascii_digit()) {
            return Err(wrong());
        }
        Self::new(host, port.parse().map_err(|_| wrong())?)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Dns(name) => write!(f, "{name}:{}", self.port),
            Host::Ip(IpAddr::V4(ip)) => write!(f, "{ip}:{}", self.port),
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_survives_its_text() {
        for text in [
            "localhost:1",
            "127.0.0.1:4711",
            "[::1]:65535",
            "a.example:443",
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(endpoint.to_string(), text);
            assert!(endpoint.server_name().is_ok());
        }
    }

    #[test]
    fn what_is_no_endpoint_is_refused() {
        for text in [
            "",
            "localhost",
            "localhost:",
            "localhost:0",
            "localhost:+1",
            "localhost:65536",
            "::1:443",
            "[::1]",
            "[1.2.3.4]:1",
            "a b:1",
            "https://a:1",
            "a/b:1",
        ] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }
}

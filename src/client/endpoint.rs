//! Where a broker is and what carries the bytes there, as a URL says it or field by field.

use std::net::IpAddr;
use std::path::PathBuf;

use thiserror::Error;

/// A broker's address and the layers on the way to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// A name or an IP address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// TLS, if any.
    pub tls: Option<TlsOptions>,
    /// The path of a WebSocket, if any.
    pub web_path: Option<String>,
    /// The address of this machine to connect from; the system chooses by default.
    pub local_address: Option<IpAddr>,
}

/// How a client does TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// PEM file with the authorities that are believed; the system's by default.
    pub authorities: Option<PathBuf>,
    /// PEM file with our certificate, and the one with its key.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Believes any certificate: good for trying things, for nothing else.
    pub is_insecure: bool,
    /// The name that the broker's certificate must have, instead of the host.
    pub server_name: Option<String>,
    /// The protocol to name (ALPN); none by default, `http/1.1` with WebSocket.
    pub application: Option<String>,
    /// The one version to speak; by default the newest that both know.
    pub version: Option<TlsVersion>,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    /// RFC 5246.
    V1_2,
    /// RFC 8446.
    V1_3,
}

/// What a URL says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// Where.
    pub endpoint: Endpoint,
    /// As whom.
    pub username: Option<String>,
    /// With which secret.
    pub password: Option<String>,
}

/// Why a text is no address of a broker.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UrlError {
    /// Another scheme.
    #[error("'{scheme}://' is not known; write mqtt://, mqtts://, ws:// or wss://")]
    Scheme {
        /// Which.
        scheme: String,
    },
    /// A port that is none.
    #[error("'{port}' is not a port")]
    Port {
        /// What stands there.
        port: String,
    },
    /// Nothing where the host belongs.
    #[error("a host is needed, as in mqtt://localhost:1883")]
    Host,
    /// A `%` without two hexadecimal digits behind it.
    #[error("a '%' must be followed by two hexadecimal digits; write '%25' for itself")]
    Escape,
}

impl Endpoint {
    /// Returns an endpoint over plain TCP.
    pub fn tcp(host: &str, port: u16) -> Endpoint {
        Endpoint { host: host.to_owned(), port, tls: None, web_path: None, local_address: None }
    }
}

impl Url {
    /// Reads `scheme://user:password@host:port/path`; without a scheme it is `mqtt://`. `port` is the one of such an address that
    /// names none; schemes have their own: 1883, 8883, and those of the web.
    pub fn parse(text: &str, port: u16) -> Result<Url, UrlError> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        let (is_encrypted, is_web, default_port) = match scheme {
            "" => (false, false, port),
            "mqtt" | "tcp" => (false, false, 1883),
            "mqtts" | "ssl" | "tls" => (true, false, 8883),
            "ws" => (false, true, 80),
            "wss" => (true, true, 443),
            _ => return Err(UrlError::Scheme { scheme: scheme.to_owned() }),
        };
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let (user, address) = match authority.rsplit_once('@') {
            Some((user, address)) => (Some(user), address),
            None => (None, authority),
        };
        let (host, port) = split_port(address, default_port)?;
        let (username, password) = match user {
            None => (None, None),
            Some(user) => match user.split_once(':') {
                None => (Some(unescaped(user)?), None),
                Some((user, password)) => (Some(unescaped(user)?), Some(unescaped(password)?)),
            },
        };
        let path = if matches!(path, "" | "/") { "/mqtt" } else { path };
        let endpoint = Endpoint {
            host: host.to_owned(),
            port,
            tls: is_encrypted.then(TlsOptions::default),
            web_path: is_web.then(|| path.to_owned()),
            local_address: None,
        };
        Ok(Url { endpoint, username, password })
    }
}

/// Splits `host:port`, `[::1]:port`, `::1` and `host`.
fn split_port(address: &str, default_port: u16) -> Result<(&str, u16), UrlError> {
    let (host, port) = match address.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, rest)) => (host, Some(rest.strip_prefix(':').unwrap_or(rest))),
        // More than one colon is an IPv6 address without brackets.
        None if address.matches(':').count() > 1 => (address, None),
        None => match address.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (address, None),
        },
    };
    if host.is_empty() {
        return Err(UrlError::Host);
    }
    let port = port.map(|port| port.parse().map_err(|_| UrlError::Port { port: port.to_owned() }));
    Ok((host, port.transpose()?.unwrap_or(default_port)))
}

/// Reads percent escapes (RFC 3986 §2.1).
fn unescaped(text: &str) -> Result<String, UrlError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, behind)) = rest.split_first() {
        rest = behind;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let (digits, behind) = rest.split_at_checked(2).ok_or(UrlError::Escape)?;
        let digits = str::from_utf8(digits).map_err(|_| UrlError::Escape)?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| UrlError::Escape)?);
        rest = behind;
    }
    String::from_utf8(bytes).map_err(|_| UrlError::Escape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_where_how_and_as_whom() {
        for (text, host, port, is_encrypted, path) in [
            ("broker", "broker", 7, false, None),
            ("broker:9", "broker", 9, false, None),
            ("::1", "::1", 7, false, None),
            ("[::1]:9", "::1", 9, false, None),
            ("mqtt://broker", "broker", 1883, false, None),
            ("mqtt://broker:9/", "broker", 9, false, None),
            ("mqtts://broker", "broker", 8883, true, None),
            ("ssl://[::1]", "::1", 8883, true, None),
            ("ws://broker", "broker", 80, false, Some("/mqtt")),
            ("ws://broker:8083/bus?x=1", "broker", 8083, false, Some("/bus?x=1")),
            ("wss://broker/", "broker", 443, true, Some("/mqtt")),
        ] {
            let Endpoint { host: found, port: at, tls, web_path, .. } =
                Url::parse(text, 7).unwrap().endpoint;
            assert_eq!((&*found, at), (host, port), "{text}");
            assert_eq!((tls.is_some(), web_path.as_deref()), (is_encrypted, path), "{text}");
        }
    }

    #[test]
    fn credentials_are_in_front_of_the_last_at_sign_and_may_be_escaped() {
        let parse = |text| {
            let Url { username, password, endpoint } = Url::parse(text, 7).unwrap();
            assert_eq!(endpoint.host, "h");
            (username, password)
        };
        let owned = |text: &str| Some(text.to_owned());
        assert_eq!(parse("mqtt://u:p@h"), (owned("u"), owned("p")));
        assert_eq!(parse("mqtt://u@h:1"), (owned("u"), None));
        assert_eq!(parse("mqtt://a%40b:p%3A%25@x@h"), (owned("a@b"), owned("p:%@x")));
    }

    #[test]
    fn what_is_no_address_is_said() {
        for (text, error) in [
            ("http://h", UrlError::Scheme { scheme: "http".to_owned() }),
            ("mqtt://h:x", UrlError::Port { port: "x".to_owned() }),
            ("mqtt://h:70000", UrlError::Port { port: "70000".to_owned() }),
            ("mqtt://", UrlError::Host),
            ("", UrlError::Host),
            ("mqtt://u%4:p@h", UrlError::Escape),
            ("mqtt://u%zz@h", UrlError::Escape),
        ] {
            assert_eq!(Url::parse(text, 7), Err(error), "{text}");
        }
    }
}

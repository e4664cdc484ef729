//! How a client says who it is: PLAIN (RFC 4616), AMQPLAIN, EXTERNAL (RFC 4422 appendix A).

use bytes::Bytes;

use super::ReplyCode;
use super::codec::{Table, Value};
use super::settings::Settings;
use super::violation::Violation;
use crate::model::PeerInfo;
use crate::model::command::{Credentials, Secret};

/// Who needs no account where there are none.
pub(super) const GUEST: &[u8] = b"guest";
/// The mechanism by which a certificate says who it is.
pub(super) const EXTERNAL: &[u8] = b"EXTERNAL";

/// The mechanisms that a peer is offered, with spaces between.
pub(super) fn mechanisms(settings: &Settings, peer: &PeerInfo) -> &'static str {
    match offers_external(settings, peer) {
        true => "PLAIN AMQPLAIN EXTERNAL",
        false => "PLAIN AMQPLAIN",
    }
}

/// Reads the response of a mechanism that was offered. What it says is copied: it outlives its frame.
pub(super) fn credentials(
    settings: &Settings,
    peer: &PeerInfo,
    mechanism: &[u8],
    response: &Bytes,
) -> Result<Credentials, Violation> {
    let (user, password) = match mechanism {
        b"PLAIN" => plain(response)?,
        b"AMQPLAIN" => amqplain(response)?,
        // The certificate says all of it.
        EXTERNAL if offers_external(settings, peer) => return Ok(Credentials::None),
        other => {
            let other = String::from_utf8_lossy(other);
            let text = format!("unknown authentication mechanism '{other}'");
            return Err(Violation::new(ReplyCode::CommandInvalid, text));
        }
    };
    Ok(self::password(settings, user, password))
}

/// What is to be checked of a user with a password.
pub(super) fn password(settings: &Settings, user: Bytes, password: Bytes) -> Credentials {
    match settings.guest_is_anonymous && user == GUEST && password == GUEST {
        true => Credentials::None,
        false => Credentials::Password { user, password: Secret(password) },
    }
}

fn offers_external(settings: &Settings, peer: &PeerInfo) -> bool {
    settings.certificates_name_users && peer.certificate.is_some()
}

/// `[whose rights] NUL user NUL password`; acting for somebody else is not offered.
fn plain(response: &Bytes) -> Result<(Bytes, Bytes), Violation> {
    let mut parts = response.split(|byte| *byte == 0);
    let parts = [parts.next(), parts.next(), parts.next(), parts.next()];
    match parts {
        [Some(other), Some(user), Some(password), None] if other.is_empty() || other == user => {
            Ok((Bytes::copy_from_slice(user), Bytes::copy_from_slice(password)))
        }
        _ => Err(malformed("PLAIN")),
    }
}

/// A table without its length, with `LOGIN` and `PASSWORD`.
fn amqplain(response: &Bytes) -> Result<(Bytes, Bytes), Violation> {
    let table = Table::from_contents(response.clone())?;
    match (table.get("LOGIN"), table.get("PASSWORD")) {
        (Some(Value::LongString(user)), Some(Value::LongString(password))) => {
            Ok((Bytes::copy_from_slice(&user), Bytes::copy_from_slice(&password)))
        }
        _ => Err(malformed("AMQPLAIN")),
    }
}

fn malformed(mechanism: &str) -> Violation {
    Violation::new(ReplyCode::SyntaxError, format!("the response is not one of {mechanism}"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::CertificateIdentity;

    fn read(
        settings: &Settings,
        mechanism: &str,
        response: &'static [u8],
    ) -> Result<Credentials, ReplyCode> {
        let peer = PeerInfo::tcp("127.0.0.1:1".parse().unwrap());
        let response = Bytes::from_static(response);
        credentials(settings, &peer, mechanism.as_bytes(), &response)
            .map_err(|violation| violation.code)
    }

    fn password(user: &'static str, password: &'static str) -> Result<Credentials, ReplyCode> {
        let password = Secret(Bytes::from(password));
        Ok(Credentials::Password { user: Bytes::from(user), password })
    }

    #[test]
    fn plain_has_a_user_and_a_password() {
        let settings = Settings::default();
        let plain = |response| read(&settings, "PLAIN", response);

        assert_eq!(plain(b"\0ann\0pw"), password("ann", "pw"));
        assert_eq!(plain(b"ann\0ann\0"), password("ann", ""));
        for response in [&b""[..], b"ann", b"\0ann", b"bob\0ann\0pw", b"\0ann\0pw\0"] {
            assert_eq!(plain(response), Err(ReplyCode::SyntaxError), "{response:?}");
        }
    }

    #[test]
    fn amqplain_is_a_table() {
        let settings = Settings::default();
        let amqplain = |response| read(&settings, "AMQPLAIN", response);

        let response = b"\x05LOGINS\x00\x00\x00\x03ann\x08PASSWORDS\x00\x00\x00\x02pw";
        assert_eq!(amqplain(response), password("ann", "pw"));
        let number = b"\x05LOGINI\x00\x00\x00\x03\x08PASSWORDS\x00\x00\x00\x02pw";
        assert_eq!(amqplain(number), Err(ReplyCode::SyntaxError));
        assert_eq!(amqplain(b"\x05LOGIN"), Err(ReplyCode::SyntaxError));
    }

    #[test]
    fn guest_is_nobody_in_particular_where_there_are_no_users() {
        let open = Settings { guest_is_anonymous: true, ..Settings::default() };

        assert_eq!(read(&open, "PLAIN", b"\0guest\0guest"), Ok(Credentials::None));
        assert_eq!(read(&open, "PLAIN", b"\0guest\0other"), password("guest", "other"));
        let closed = Settings::default();
        assert_eq!(read(&closed, "PLAIN", b"\0guest\0guest"), password("guest", "guest"));
    }

    #[test]
    fn external_is_for_those_whose_certificate_names_them() {
        let settings = Settings { certificates_name_users: true, ..Settings::default() };
        let mut peer = PeerInfo::tcp("127.0.0.1:1".parse().unwrap());
        let external = |peer: &PeerInfo| credentials(&settings, peer, b"EXTERNAL", &Bytes::new());

        assert_eq!(mechanisms(&settings, &peer), "PLAIN AMQPLAIN");
        assert_eq!(external(&peer).unwrap_err().code, ReplyCode::CommandInvalid);

        peer.certificate = Some(Arc::new(CertificateIdentity::default()));
        assert_eq!(mechanisms(&settings, &peer), "PLAIN AMQPLAIN EXTERNAL");
        assert_eq!(external(&peer), Ok(Credentials::None));
        assert_eq!(mechanisms(&Settings::default(), &peer), "PLAIN AMQPLAIN");
    }
}

//! Who acts: a user by name, or nobody in particular.

use bytes::Bytes;
use thiserror::Error;

/// Bytes of a user's name, at most.
pub const USER_BYTES_MAX: usize = 255;

/// Who a connection acts for, and whom its session belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Principal(Bytes);

/// Why a text names no user.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "a user's name must have 1 to {USER_BYTES_MAX} bytes of UTF-8, no ':', no space around it and no control characters"
)]
pub struct PrincipalError;

impl Principal {
    /// A client that did not say who it is.
    pub const ANONYMOUS: Principal = Principal(Bytes::new());

    /// Checks a user's name.
    pub fn user(name: Bytes) -> Result<Principal, PrincipalError> {
        let text = std::str::from_utf8(&name).map_err(|_| PrincipalError)?;
        let is_odd = text.chars().any(|char| char == ':' || char.is_control());
        if is_odd || text.trim() != text || !(1..=USER_BYTES_MAX).contains(&name.len()) {
            return Err(PrincipalError);
        }
        Ok(Principal(name))
    }

    /// Wraps a name that was checked before it was stored; empty is [`ANONYMOUS`](Principal::ANONYMOUS).
    pub fn from_stored(name: Bytes) -> Principal {
        Principal(name)
    }

    /// The user's name; `None` for an anonymous client.
    pub fn name(&self) -> Option<&str> {
        let name = std::str::from_utf8(&self.0).expect("names are checked when they enter");
        (!name.is_empty()).then_some(name)
    }

    /// The user's name as stored, empty for an anonymous client.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// Returns true for a client that did not say who it is.
    pub fn is_anonymous(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns true when it may have a session of `owner`: its own, or one that nobody in particular opened.
    ///
    /// The latter so that clients keep their sessions when an operator gives them names (ADR 0023).
    pub fn may_have_session_of(&self, owner: &Principal) -> bool {
        self == owner || owner.is_anonymous()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_that_a_line_of_the_users_file_can_hold() {
        for name in ["alice", "a b", "ü", "O=x,CN=y"] {
            let principal = Principal::user(Bytes::from(name)).unwrap();
            assert_eq!(principal.name(), Some(name));
        }
        for name in ["", "a:b", " a", "a\t", "a\nb", "a\0"] {
            assert_eq!(Principal::user(Bytes::from(name)), Err(PrincipalError), "{name:?}");
        }
        assert!(Principal::user(Bytes::from_static(b"\xff")).is_err());
        assert!(Principal::user(Bytes::from(vec![b'a'; 256])).is_err());
    }

    #[test]
    fn sessions_go_from_nobody_to_somebody_and_never_elsewhere() {
        let named = |name: &'static str| Principal::user(Bytes::from(name)).unwrap();

        assert!(named("a").may_have_session_of(&named("a")));
        assert!(named("a").may_have_session_of(&Principal::ANONYMOUS));
        assert!(Principal::ANONYMOUS.may_have_session_of(&Principal::ANONYMOUS));
        assert!(!named("a").may_have_session_of(&named("b")));
        assert!(!Principal::ANONYMOUS.may_have_session_of(&named("a")));
    }
}

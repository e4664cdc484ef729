//! The users file: `name:credential` lines, as mosquitto's password file has them.
//!
//! A user has a password hash, a SCRAM verifier, or a line of each. The file is read strictly: one bad line and none of it counts.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::credential::Credential;
use super::problem::{Problems, read_lines};
use super::scram::{ScramVerifier, mac};
use crate::model::Principal;

/// Everybody who can say who they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Users {
    by_name: BTreeMap<String, User>,
}

/// One user's credentials: one at least.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// For passwords that are sent as they are.
    pub password: Option<Arc<Credential>>,
    /// For SCRAM; takes passwords too where there is no other.
    pub scram: Option<Arc<Credential>>,
}

impl Users {
    /// Reads a file; the error names every bad line.
    pub fn parse(text: &str) -> Result<Users, Problems> {
        let mut users = Users::default();
        read_lines(text, |_, line| {
            let (name, credential) = line
                .split_once(':')
                .ok_or("has no ':' between the user's name and the credential")?;
            let principal = Principal::user(Bytes::copy_from_slice(name.as_bytes()))
                .map_err(|e| e.to_string())?;
            let credential =
                Credential::parse(credential).map_err(|error| format!("user '{name}': {error}"))?;
            let name = principal.name().unwrap_or_default().to_owned();
            let user = users.by_name.entry(name).or_default();
            let (place, what) = match credential.as_scram() {
                Some(_) => (&mut user.scram, "SCRAM verifier"),
                None => (&mut user.password, "password"),
            };
            match place.replace(Arc::new(credential)) {
                None => Ok(()),
                Some(_) => Err(format!("is a second {what} of its user: keep one")),
            }
        })?;
        Ok(users)
    }

    /// Returns how many there are.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Returns true when there is none.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// Returns one user.
    pub fn get(&self, name: &str) -> Option<&User> {
        self.by_name.get(name)
    }

    /// Lists them by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &User)> {
        self.by_name.iter().map(|(name, user)| (&name[..], user))
    }

    /// The user's SCRAM verifier.
    pub fn scram(&self, name: &str) -> Option<&ScramVerifier> {
        self.get(name)?.scram.as_ref()?.as_scram()
    }

    /// What to check the password of a user against who does not exist: always the same other user's, so that it takes as long as a
    /// user's check does. `None` when nobody has a password.
    pub(super) fn decoy(&self, secret: &[u8; 32], name: &str) -> Option<&Arc<Credential>> {
        let digest = mac(secret, format!("decoy:{name}").as_bytes());
        let number = u64::from_le_bytes(digest[..8].try_into().expect("8 of 32 bytes"));
        let index = number.checked_rem(self.by_name.len() as u64)?;
        self.by_name.values().nth(index as usize)?.for_password()
    }

    /// How often an existing user's SCRAM password is hashed.
    pub(super) fn scram_rounds(&self) -> Option<u32> {
        let first = self.by_name.values().find_map(|user| user.scram.as_ref()?.as_scram())?;
        Some(first.rounds())
    }
}

impl User {
    /// What a password that is sent as it is is checked against.
    pub fn for_password(&self) -> Option<&Arc<Credential>> {
        self.password.as_ref().or(self.scram.as_ref())
    }
}

/// The name of the user that a line is about; `None` for a comment.
pub fn name_of(line: &str) -> Option<&str> {
    let line = line.trim();
    if line.starts_with('#') {
        return None;
    }
    line.split_once(':').map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BCRYPT: &str = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";

    #[test]
    fn a_user_may_have_a_password_and_a_verifier_on_lines_of_their_own() {
        let scram = Credential::scram(b"pencil", [1; 16]).unwrap();
        let text = format!("# people\n\nalice:{BCRYPT}\n  alice:{scram}  \nbob:{scram}\n");

        let users = Users::parse(&text).unwrap();

        assert_eq!(users.len(), 2);
        let alice = users.get("alice").unwrap();
        assert!(alice.for_password().unwrap().verify(b"U*U"));
        assert!(users.scram("alice").is_some());
        let bob = users.get("bob").unwrap();
        assert!(bob.for_password().unwrap().verify(b"pencil"));
        assert_eq!(users.get("carol"), None);
    }

    #[test]
    fn every_bad_line_is_named_and_none_is_shown() {
        let text = format!("alice:{BCRYPT}\nhunter2\nbob:hunter2\n:x\nalice:{BCRYPT}\n");

        let problems = Users::parse(&text).unwrap_err();

        let lines: Vec<usize> = problems.0.iter().map(|problem| problem.line).collect();
        assert_eq!(lines, [2, 3, 4, 5]);
        assert!(!problems.to_string().contains("hunter2"), "{problems}");
        assert!(problems.to_string().contains("line 3: user 'bob'"), "{problems}");
    }

    #[test]
    fn who_does_not_exist_is_always_checked_against_the_same_somebody() {
        let scram = Credential::scram(b"pencil", [1; 16]).unwrap();
        let text: String = (0..9).map(|n| format!("u{n}:{scram}\n")).collect();
        let users = Users::parse(&text).unwrap();
        let decoy = |name: &str| users.decoy(&[3; 32], name).map(Arc::as_ptr);

        assert!(decoy("ghost").is_some());
        assert_eq!(decoy("ghost"), decoy("ghost"));
        let others: std::collections::BTreeSet<_> =
            (0..50).filter_map(|n| decoy(&format!("g{n}"))).collect();
        assert!(others.len() > 3);
        assert_eq!(Users::default().decoy(&[3; 32], "ghost"), None);
    }
}

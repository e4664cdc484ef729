//! What a user's password is checked against: one string of the users file, in the form its algorithm has everywhere.
//!
//! | Form | Algorithm |
//! |---|---|
//! | `$argon2id$v=19$m=…,t=…,p=…$salt$hash` | argon2id (RFC 9106), the PHC string format |
//! | `$2a$…`, `$2b$…`, `$2y$…` | bcrypt |
//! | `$7$iterations$salt$hash` | PBKDF2-HMAC-SHA512, as mosquitto_passwd writes it |
//! | `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey` | RFC 5803 |

use std::fmt;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, Params, PasswordHasher, PasswordVerifier};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::Sha512;
use subtle::ConstantTimeEq;
use thiserror::Error;

use super::scram::ScramVerifier;

/// Memory that one check may take: a line of the file is not to take the machine down.
const ARGON2_KIB_MAX: u32 = 1 << 20;
const ARGON2_PASSES_MAX: u32 = 100;
const ARGON2_LANES_MAX: u32 = 16;
/// bcrypt's cost is an exponent: 16 takes seconds.
const BCRYPT_COSTS: std::ops::RangeInclusive<u32> = 4..=16;
/// Rounds of PBKDF2, here and for SCRAM.
pub(super) const ROUNDS_MAX: u32 = 10_000_000;

/// A verifier of one user's password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential(Form);

#[derive(Clone, PartialEq, Eq)]
enum Form {
    Argon2id(String),
    Bcrypt(String),
    Pbkdf2 { rounds: u32, salt: Vec<u8>, hash: Vec<u8> },
    Scram(ScramVerifier),
}

/// Why a text is no credential.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CredentialError {
    /// None of the forms.
    #[error(
        "the credential is in no known form: $argon2id$…, $2b$…, $7$… or SCRAM-SHA-256$…, as 'mqttctl users add' writes them; \
         a password itself does not belong in this file"
    )]
    Unknown,
    /// One of the forms, and damaged.
    #[error(
        "the {form} credential is damaged or cut short: set the password again with 'mqttctl users passwd'"
    )]
    Malformed {
        /// Which.
        form: &'static str,
    },
    /// Its parameters would take too much memory or time at each connect.
    #[error("the {form} credential asks for more memory or time than a check may take: {bounds}")]
    TooCostly {
        /// Which.
        form: &'static str,
        /// What is accepted.
        bounds: String,
    },
}

/// Why a password cannot be hashed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HashError {
    /// An empty password is none.
    #[error("the password is empty")]
    Empty,
    /// The algorithm refuses it.
    #[error("cannot hash the password: {0}")]
    Algorithm(argon2::password_hash::Error),
}

impl Credential {
    /// Hashes a password with argon2id; `salt` is random and new for each, 16 bytes.
    pub fn argon2id(password: &[u8], salt: [u8; 16]) -> Result<Credential, HashError> {
        if password.is_empty() {
            return Err(HashError::Empty);
        }
        let hash = Argon2::default().hash_password_with_salt(password, &salt);
        Ok(Credential(Form::Argon2id(hash.map_err(HashError::Algorithm)?.to_string())))
    }

    /// Derives a SCRAM-SHA-256 verifier from a password; `salt` is random and new for each.
    pub fn scram(password: &[u8], salt: [u8; 16]) -> Result<Credential, HashError> {
        if password.is_empty() {
            return Err(HashError::Empty);
        }
        Ok(Credential(Form::Scram(ScramVerifier::derive(password, salt.to_vec()))))
    }

    /// Reads one of the forms above.
    pub fn parse(text: &str) -> Result<Credential, CredentialError> {
        let form = match text {
            _ if text.starts_with("$argon2id$") => parse_argon2id(text)?,
            _ if ["$2a$", "$2b$", "$2y$"].iter().any(|prefix| text.starts_with(prefix)) => {
                parse_bcrypt(text)?
            }
            _ if text.starts_with("$7$") => parse_pbkdf2(text)?,
            _ if text.starts_with("SCRAM-SHA-256$") => Form::Scram(ScramVerifier::parse(text)?),
            _ => return Err(CredentialError::Unknown),
        };
        Ok(Credential(form))
    }

    /// Checks a password. Takes as long as its parameters say: tens of milliseconds, with as many MiB for argon2id.
    pub fn verify(&self, password: &[u8]) -> bool {
        match &self.0 {
            Form::Argon2id(hash) => PasswordHash::new(hash)
                .is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok()),
            Form::Bcrypt(hash) => bcrypt::verify(password, hash).unwrap_or(false),
            Form::Pbkdf2 { rounds, salt, hash } => {
                let mut found = vec![0; hash.len()];
                pbkdf2::pbkdf2_hmac::<Sha512>(password, salt, *rounds, &mut found);
                found.ct_eq(hash).into()
            }
            Form::Scram(verifier) => verifier.verify(password),
        }
    }

    /// The verifier for SCRAM, when it is one.
    pub fn as_scram(&self) -> Option<&ScramVerifier> {
        match &self.0 {
            Form::Scram(verifier) => Some(verifier),
            Form::Argon2id(_) | Form::Bcrypt(_) | Form::Pbkdf2 { .. } => None,
        }
    }
}

impl fmt::Display for Credential {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Form::Argon2id(hash) | Form::Bcrypt(hash) => formatter.write_str(hash),
            Form::Pbkdf2 { rounds, salt, hash } => {
                write!(formatter, "$7${rounds}${}${}", BASE64.encode(salt), BASE64.encode(hash))
            }
            Form::Scram(verifier) => verifier.fmt(formatter),
        }
    }
}

impl fmt::Debug for Credential {
    /// Names the form only: what is printed for debugging ends up in logs.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self.0 {
            Form::Argon2id(_) => "argon2id",
            Form::Bcrypt(_) => "bcrypt",
            Form::Pbkdf2 { .. } => "pbkdf2",
            Form::Scram(_) => "scram",
        })
    }
}

fn parse_argon2id(text: &str) -> Result<Form, CredentialError> {
    let form = "argon2id";
    let malformed = CredentialError::Malformed { form };
    let hash = PasswordHash::new(text).map_err(|_| malformed.clone())?;
    let params = Params::try_from(&hash).map_err(|_| malformed.clone())?;
    if hash.salt.is_none() || hash.hash.is_none() {
        return Err(malformed);
    }
    let costs = (params.m_cost(), params.t_cost(), params.p_cost());
    if costs.0 > ARGON2_KIB_MAX || costs.1 > ARGON2_PASSES_MAX || costs.2 > ARGON2_LANES_MAX {
        let bounds =
            format!("m <= {ARGON2_KIB_MAX}, t <= {ARGON2_PASSES_MAX}, p <= {ARGON2_LANES_MAX}");
        return Err(CredentialError::TooCostly { form, bounds });
    }
    Ok(Form::Argon2id(text.to_owned()))
}

fn parse_bcrypt(text: &str) -> Result<Form, CredentialError> {
    let form = "bcrypt";
    let parts: bcrypt::HashParts = text.parse().map_err(|_| CredentialError::Malformed { form })?;
    if !BCRYPT_COSTS.contains(&parts.get_cost()) {
        let bounds = format!("cost {} to {}", BCRYPT_COSTS.start(), BCRYPT_COSTS.end());
        return Err(CredentialError::TooCostly { form, bounds });
    }
    Ok(Form::Bcrypt(text.to_owned()))
}

fn parse_pbkdf2(text: &str) -> Result<Form, CredentialError> {
    let form = "PBKDF2";
    let parse = || {
        let mut parts = text.strip_prefix("$7$")?.split('$');
        let rounds: u32 = parts.next()?.parse().ok()?;
        let salt = BASE64.decode(parts.next()?).ok()?;
        let hash = BASE64.decode(parts.next()?).ok()?;
        (parts.next().is_none() && rounds > 0 && !salt.is_empty() && hash.len() == 64)
            .then_some((rounds, salt, hash))
    };
    let (rounds, salt, hash) = parse().ok_or(CredentialError::Malformed { form })?;
    if rounds > ROUNDS_MAX {
        let bounds = format!("at most {ROUNDS_MAX} iterations");
        return Err(CredentialError::TooCostly { form, bounds });
    }
    Ok(Form::Pbkdf2 { rounds, salt, hash })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: [u8; 16] = *b"0123456789abcdef";

    #[test]
    fn what_was_hashed_here_verifies_and_nothing_else_does() {
        for make in [Credential::argon2id, Credential::scram] {
            let made = make(b"secret", SALT).unwrap();
            let read = Credential::parse(&made.to_string()).unwrap();

            assert_eq!(read, made);
            assert!(read.verify(b"secret"));
            assert!(!read.verify(b"Secret"));
            assert!(!read.verify(b""));
            assert_eq!(make(b"", SALT), Err(HashError::Empty));
        }
    }

    /// Vectors of the reference implementations: argon2's own, crypt_blowfish's, and mosquitto's layout around PBKDF2 of Python's hashlib.
    #[test]
    fn files_of_other_programs_are_read() {
        let cases = [
            (
                "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
                "password",
            ),
            ("$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "U*U"),
            ("$2y$05$CCCCCCCCCCCCCCCCCCCCC.VGOzA784oUp/Z0DY336zx7pLYAy0lwK", "U*U*"),
            (
                "$7$101$MDEyMzQ1Njc4OWFi$uAhjSMFrFKPND0iWyTXsxET36hDBAvu7LqiX1au82iDOT9W7IG9XGjasDAepCB3nZMPp79k+PyCilDXRAZuIVA==",
                "password",
            ),
        ];
        for (text, password) in cases {
            let credential = Credential::parse(text).unwrap();
            assert!(credential.verify(password.as_bytes()), "{text}");
            assert!(!credential.verify(b"other"), "{text}");
            assert_eq!(credential.to_string(), text);
        }
    }

    #[test]
    fn damaged_and_costly_credentials_are_named_without_being_shown() {
        let cases = [
            ("hunter2", CredentialError::Unknown),
            ("$2b$05$short", CredentialError::Malformed { form: "bcrypt" }),
            ("$argon2id$v=19$m=19456,t=2,p=1", CredentialError::Malformed { form: "argon2id" }),
            ("$7$x$c2FsdA==$aGFzaA==", CredentialError::Malformed { form: "PBKDF2" }),
            ("SCRAM-SHA-256$4096:x", CredentialError::Malformed { form: "SCRAM-SHA-256" }),
        ];
        for (text, expected) in cases {
            let error = Credential::parse(text).unwrap_err();
            assert_eq!(error, expected);
            assert!(!error.to_string().contains("hunter2"));
        }
        let costly = [
            "$argon2id$v=19$m=4194304,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
            "$2a$31$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
        ];
        for text in costly {
            let error = Credential::parse(text).unwrap_err();
            assert!(matches!(error, CredentialError::TooCostly { .. }), "{text}: {error}");
        }
    }

    #[test]
    fn debugging_shows_no_secret() {
        let credential = Credential::argon2id(b"secret", SALT).unwrap();
        assert_eq!(format!("{credential:?}"), "argon2id");
    }
}

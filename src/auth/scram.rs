//! SCRAM-SHA-256 (RFC 5802, RFC 7677), the server's side.
//!
//! ```text
//! client-first   n,,n=user,r=cnonce
//! server-first   r=cnonce+snonce,s=salt,i=iterations
//! client-final   c=biws,r=cnonce+snonce,p=proof
//! server-final   v=signature
//! ```
//!
//! No channel binding: the layers that carry the messages do not know the channel. Passwords and names are taken as they come, without
//! SASLprep: for ASCII they are the same. An unknown user gets a salt that is always the same and a proof that never fits.

mod prover;

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::credential::{CredentialError, ROUNDS_MAX};
pub use prover::{ProofError, Prover};

/// The method's name.
pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";
/// RFC 7677 §4 asks for 4,096 at least; each is work for the client at every connect.
const ROUNDS: u32 = 15_000;
const ROUNDS_MIN: u32 = 4_096;
/// Longest message of a client that is looked at: names and nonces are short.
const MESSAGE_BYTES_MAX: usize = 1_024;

/// What the server keeps of a password.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramVerifier {
    rounds: u32,
    salt: Vec<u8>,
    stored_key: [u8; 32],
    server_key: [u8; 32],
}

/// A client's first message, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFirst {
    /// Who it says it is.
    pub user: String,
    gs2_header: String,
    bare: String,
    nonce: String,
}

/// An exchange that waits for the client's proof.
#[derive(Clone, PartialEq, Eq)]
pub struct Exchange {
    verifier: ScramVerifier,
    /// False for a user that does not exist: whatever the proof.
    is_known: bool,
    gs2_header: String,
    client_first_bare: String,
    server_first: String,
    nonce: String,
}

impl ScramVerifier {
    /// Derives it from a password.
    pub fn derive(password: &[u8], salt: Vec<u8>) -> ScramVerifier {
        ScramVerifier::with_rounds(password, salt, ROUNDS)
    }

    fn with_rounds(password: &[u8], salt: Vec<u8>, rounds: u32) -> ScramVerifier {
        let mut salted = [0; 32];
        pbkdf2::pbkdf2_hmac::<Sha256>(password, &salt, rounds, &mut salted);
        let stored_key = Sha256::digest(mac(&salted, b"Client Key")).into();
        ScramVerifier { rounds, salt, stored_key, server_key: mac(&salted, b"Server Key") }
    }

    /// A verifier that looks like any other and that no password has: the same for a name every time.
    fn decoy(secret: &[u8; 32], user: &str, rounds: u32) -> ScramVerifier {
        let make = |what: &str| mac(secret, format!("{what}:{user}").as_bytes());
        ScramVerifier {
            rounds,
            salt: make("salt")[..16].to_vec(),
            stored_key: make("stored"),
            server_key: make("server"),
        }
    }

    /// Checks a password that was sent as it is.
    pub fn verify(&self, password: &[u8]) -> bool {
        let found = ScramVerifier::with_rounds(password, self.salt.clone(), self.rounds);
        found.stored_key.ct_eq(&self.stored_key).into()
    }

    /// Reads `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey` (RFC 5803).
    pub(super) fn parse(text: &str) -> Result<ScramVerifier, CredentialError> {
        let parse = || {
            let (rounds_and_salt, keys) = text.strip_prefix("SCRAM-SHA-256$")?.split_once('$')?;
            let (rounds, salt) = rounds_and_salt.split_once(':')?;
            let (stored_key, server_key) = keys.split_once(':')?;
            let key = |text: &str| BASE64.decode(text).ok()?.try_into().ok();
            let salt = BASE64.decode(salt).ok().filter(|salt| !salt.is_empty())?;
            let rounds: u32 = rounds.parse().ok()?;
            Some(ScramVerifier {
                rounds,
                salt,
                stored_key: key(stored_key)?,
                server_key: key(server_key)?,
            })
        };
        let form = SCRAM_SHA_256;
        let verifier = parse().ok_or(CredentialError::Malformed { form })?;
        if !(ROUNDS_MIN..=ROUNDS_MAX).contains(&verifier.rounds) {
            let bounds = format!("{ROUNDS_MIN} to {ROUNDS_MAX} iterations");
            return Err(CredentialError::TooCostly { form, bounds });
        }
        Ok(verifier)
    }
}

impl fmt::Display for ScramVerifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [salt, stored_key, server_key] =
            [&self.salt[..], &self.stored_key, &self.server_key].map(|bytes| BASE64.encode(bytes));
        write!(formatter, "{SCRAM_SHA_256}${}:{salt}${stored_key}:{server_key}", self.rounds)
    }
}

impl ClientFirst {
    /// Reads a client's first message; `None` when it is none, or asks for what is not offered.
    pub fn parse(message: &[u8]) -> Option<ClientFirst> {
        let text =
            std::str::from_utf8(message).ok().filter(|_| message.len() <= MESSAGE_BYTES_MAX)?;
        let mut parts = text.splitn(3, ',');
        let (flag, authzid, bare) = (parts.next()?, parts.next()?, parts.next()?);
        // 'y': it could bind the channel and thinks that we cannot. It is right. 'p' demands it.
        if !matches!(flag, "n" | "y") {
            return None;
        }
        let mut attributes = bare.split(',');
        let user = unescape(attributes.next()?.strip_prefix("n=")?)?;
        let nonce = attributes.next()?.strip_prefix("r=").filter(|nonce| is_nonce(nonce))?;
        // To act for somebody else is not offered; an extension with 'm=' came where the name is expected.
        let acts_for = authzid.strip_prefix("a=").map(unescape);
        if user.is_empty() || acts_for.is_some_and(|name| name.as_deref() != Some(&user)) {
            return None;
        }
        Some(ClientFirst {
            gs2_header: format!("{flag},{authzid},"),
            bare: bare.to_owned(),
            nonce: nonce.to_owned(),
            user,
        })
    }
}

impl Exchange {
    /// Answers a first message. `verifier` is the user's, if there is one; `nonce` is random and never used before; `secret` is the
    /// process's own and `rounds` what its other users have.
    pub fn begin(
        first: ClientFirst,
        verifier: Option<&ScramVerifier>,
        nonce: &[u8],
        (secret, rounds): (&[u8; 32], Option<u32>),
    ) -> Exchange {
        let is_known = verifier.is_some();
        let verifier = verifier
            .cloned()
            .unwrap_or_else(|| ScramVerifier::decoy(secret, &first.user, rounds.unwrap_or(ROUNDS)));
        let nonce = format!("{}{}", first.nonce, BASE64.encode(nonce));
        let salt = BASE64.encode(&verifier.salt);
        let server_first = format!("r={nonce},s={salt},i={}", verifier.rounds);
        let ClientFirst { gs2_header, bare, .. } = first;
        Exchange { verifier, is_known, gs2_header, client_first_bare: bare, server_first, nonce }
    }

    /// The server's first message.
    pub fn server_first(&self) -> &str {
        &self.server_first
    }

    /// Checks the client's proof; returns the server's final message, or `None` when it is wrong.
    pub fn finish(&self, message: &[u8]) -> Option<String> {
        let text =
            std::str::from_utf8(message).ok().filter(|_| message.len() <= MESSAGE_BYTES_MAX)?;
        let (without_proof, proof) = text.rsplit_once(",p=")?;
        let proof: [u8; 32] = BASE64.decode(proof).ok()?.try_into().ok()?;
        let mut attributes = without_proof.split(',');
        let binding = attributes.next()?.strip_prefix("c=")?;
        let nonce = attributes.next()?.strip_prefix("r=")?;
        let is_ours =
            BASE64.decode(binding).ok()? == self.gs2_header.as_bytes() && nonce == self.nonce;
        let signed = format!("{},{},{without_proof}", self.client_first_bare, self.server_first);
        let signature = mac(&self.verifier.stored_key, signed.as_bytes());
        let mut client_key = proof;
        client_key.iter_mut().zip(signature).for_each(|(byte, mask)| *byte ^= mask);
        let found: [u8; 32] = Sha256::digest(client_key).into();
        let fits: bool = found.ct_eq(&self.verifier.stored_key).into();
        (fits && is_ours && self.is_known).then(|| {
            format!("v={}", BASE64.encode(mac(&self.verifier.server_key, signed.as_bytes())))
        })
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Exchange").finish_non_exhaustive()
    }
}

impl ScramVerifier {
    /// How often the password is hashed.
    pub fn rounds(&self) -> u32 {
        self.rounds
    }
}

/// HMAC-SHA-256.
pub(super) fn mac(key: &[u8], text: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length is one");
    mac.update(text);
    mac.finalize().into_bytes().into()
}

/// A name of SASL: `,` and `=` are written `=2C` and `=3D` (RFC 5802 §5.1).
fn unescape(name: &str) -> Option<String> {
    let mut parts = name.split('=');
    let mut plain = parts.next()?.to_owned();
    for part in parts {
        let (escaped, rest) = part.split_at_checked(2)?;
        plain.push(match escaped {
            "2C" => ',',
            "3D" => '=',
            _ => return None,
        });
        plain.push_str(rest);
    }
    Some(plain)
}

fn is_nonce(nonce: &str) -> bool {
    !nonce.is_empty() && nonce.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: [u8; 32] = [7; 32];

    /// RFC 7677 §3: user "user", password "pencil".
    const CLIENT_FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const SERVER_FIRST: &str =
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    const CLIENT_FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
         p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    const SERVER_FINAL: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

    fn rfc_exchange() -> Exchange {
        let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let verifier = ScramVerifier::with_rounds(b"pencil", salt, 4096);
        let first = ClientFirst::parse(CLIENT_FIRST.as_bytes()).unwrap();
        let begun = Exchange::begin(first, Some(&verifier), b"", (&SECRET, None));
        // The RFC's nonce is not the base64 that ours are.
        let nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0".to_owned();
        let server_first =
            begun.server_first.replace("r=rOprNGfwEbeRWgbNEkqO", &format!("r={nonce}"));
        Exchange { nonce, server_first, ..begun }
    }

    #[test]
    fn the_exchange_of_rfc_7677_comes_out_to_the_letter() {
        let exchange = rfc_exchange();

        assert_eq!(exchange.server_first(), SERVER_FIRST);
        assert_eq!(exchange.finish(CLIENT_FINAL.as_bytes()).as_deref(), Some(SERVER_FINAL));
    }

    #[test]
    fn any_changed_byte_of_the_last_message_is_refused() {
        let exchange = rfc_exchange();
        for at in 0..CLIENT_FINAL.len() {
            let mut changed = CLIENT_FINAL.as_bytes().to_vec();
            changed[at] ^= 1;
            assert_eq!(exchange.finish(&changed), None, "byte {at}");
        }
        assert_eq!(exchange.finish(b""), None);
    }

    #[test]
    fn an_unknown_user_gets_a_salt_that_does_not_change_and_never_gets_in() {
        let first =
            |user: &str| ClientFirst::parse(format!("n,,n={user},r=abc").as_bytes()).unwrap();
        let begin = |user: &str, nonce: &[u8]| {
            Exchange::begin(first(user), None, nonce, (&SECRET, Some(5_000)))
        };
        let salt =
            |exchange: &Exchange| exchange.server_first.split(",s=").nth(1).unwrap().to_owned();

        let (one, again, other) =
            (begin("ghost", b"1"), begin("ghost", b"2"), begin("spook", b"1"));

        assert_eq!(salt(&one), salt(&again));
        assert_ne!(salt(&one), salt(&other));
        assert!(one.server_first.ends_with(",i=5000"));
        // Even with the keys of the decoy in hand.
        let signed =
            format!("{},{},c=biws,r={}", one.client_first_bare, one.server_first, one.nonce);
        let proof = mac(&one.verifier.stored_key, signed.as_bytes());
        let last = format!("c=biws,r={},p={}", one.nonce, BASE64.encode(proof));
        assert_eq!(one.finish(last.as_bytes()), None);
    }

    #[test]
    fn first_messages_that_ask_for_what_is_not_offered_are_refused() {
        let names = [("n,,n=a=2Cb=3Dc,r=x", Some("a,b=c")), ("y,a=u,n=u,r=x", Some("u"))];
        let refused = [
            "p=tls-unique,,n=u,r=x",
            "n,a=other,n=u,r=x",
            "n,,m=ext,n=u,r=x",
            "n,,n=,r=x",
            "n,,n=u,r=",
            "n,,n=u=2x,r=x",
            "n,,n=u=,r=x",
            "n=u,r=x",
            "",
        ];
        for (message, user) in names.into_iter().chain(refused.map(|message| (message, None))) {
            let parsed = ClientFirst::parse(message.as_bytes());
            assert_eq!(parsed.as_ref().map(|first| &first.user[..]), user, "{message}");
        }
        assert_eq!(ClientFirst::parse(&vec![b'n'; 2_000]), None);
    }

    #[test]
    fn a_verifier_is_written_as_it_is_read() {
        let text = ScramVerifier::derive(b"pencil", vec![1; 16]).to_string();
        let read = ScramVerifier::parse(&text).unwrap();

        assert_eq!(read.to_string(), text);
        assert!(read.verify(b"pencil"));
        assert!(!read.verify(b"pen"));
        assert!(ScramVerifier::parse(&text.replace("$15000:", "$100:")).is_err());
    }
}

//! SCRAM-SHA-256, the client's side: proves a password without sending it, and makes sure that the server knows it too.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use thiserror::Error;

use super::super::credential::ROUNDS_MAX;
use super::{ROUNDS_MIN, mac};

/// What a `,` and a `=` in a name are written as (RFC 5802 §5.1).
const ESCAPES: [(char, &str); 2] = [('=', "=3D"), (',', "=2C")];
/// No channel binding, nobody to act for; and the same in base64.
const GS2_HEADER: &str = "n,,";
const BINDING: &str = "biws";

/// One exchange, from the client's side.
#[derive(Clone)]
pub struct Prover {
    password: Vec<u8>,
    first_bare: String,
    nonce: String,
    /// What the server signs with the password, once it was proved.
    signature: Option<[u8; 32]>,
}

/// Why an exchange ends.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProofError {
    /// A message of the server makes no sense.
    #[error("the server's message is none of SCRAM-SHA-256")]
    Malformed,
    /// It answers somebody else.
    #[error("the server answers another exchange")]
    Nonce,
    /// Too few make the password easy to guess, too many keep us busy.
    #[error(
        "the server wants the password hashed {rounds} times; {ROUNDS_MIN} to {ROUNDS_MAX} are accepted"
    )]
    Rounds {
        /// How many it wants.
        rounds: u32,
    },
    /// Its signature is missing or wrong.
    #[error("the server does not know the password: it is not who it should be")]
    Server,
}

impl Prover {
    /// Begins an exchange. `nonce` is printable, without commas, and was never used before.
    pub fn new(user: &str, password: &[u8], nonce: &str) -> Prover {
        let user = ESCAPES
            .iter()
            .fold(user.to_owned(), |user, (plain, escaped)| user.replace(*plain, escaped));
        Prover {
            password: password.to_vec(),
            first_bare: format!("n={user},r={nonce}"),
            nonce: nonce.to_owned(),
            signature: None,
        }
    }

    /// The first message.
    pub fn first(&self) -> String {
        format!("{GS2_HEADER}{}", self.first_bare)
    }

    /// Answers the server's first message with the proof.
    pub fn prove(&mut self, server_first: &[u8]) -> Result<String, ProofError> {
        let server_first = str::from_utf8(server_first).map_err(|_| ProofError::Malformed)?;
        let mut fields = server_first.split(',');
        let mut field = |name| fields.next().and_then(|field| field.strip_prefix(name));
        let found = (field("r="), field("s="), field("i="));
        let (Some(nonce), Some(salt), Some(rounds)) = found else {
            return Err(ProofError::Malformed);
        };
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err(ProofError::Nonce);
        }
        let salt = BASE64.decode(salt).map_err(|_| ProofError::Malformed)?;
        let rounds: u32 = rounds.parse().map_err(|_| ProofError::Malformed)?;
        if !(ROUNDS_MIN..=ROUNDS_MAX).contains(&rounds) {
            return Err(ProofError::Rounds { rounds });
        }
        let mut salted = [0; 32];
        pbkdf2::pbkdf2_hmac::<Sha256>(&self.password, &salt, rounds, &mut salted);
        let without_proof = format!("c={BINDING},r={nonce}");
        let signed = format!("{},{server_first},{without_proof}", self.first_bare);
        let mut proof = mac(&salted, b"Client Key");
        let stored_key: [u8; 32] = Sha256::digest(proof).into();
        let mask = mac(&stored_key, signed.as_bytes());
        proof.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
        self.signature = Some(mac(&mac(&salted, b"Server Key"), signed.as_bytes()));
        Ok(format!("{without_proof},p={}", BASE64.encode(proof)))
    }

    /// Checks the server's last message: who does not know the password cannot have signed it.
    pub fn check(&self, server_final: &[u8]) -> Result<(), ProofError> {
        let found = server_final.strip_prefix(b"v=").and_then(|found| BASE64.decode(found).ok());
        let (Some(expected), Some(found)) = (&self.signature, found) else {
            return Err(ProofError::Server);
        };
        match bool::from(expected[..].ct_eq(&found)) {
            true => Ok(()),
            false => Err(ProofError::Server),
        }
    }
}

impl std::fmt::Debug for Prover {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Prover").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ClientFirst, Exchange, ScramVerifier};
    use super::*;

    #[test]
    fn the_example_of_rfc_7677_comes_out() {
        let mut prover = Prover::new("user", b"pencil", "rOprNGfwEbeRWgbNEkqO");
        assert_eq!(prover.first(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let server_first: &[u8] =
            b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";

        assert_eq!(
            prover.prove(server_first).unwrap(),
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
             p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        let last = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";
        assert_eq!(prover.check(last), Ok(()));
        assert_eq!(prover.check(b"v=AAAA"), Err(ProofError::Server));
        assert_eq!(prover.check(b"e=other-error"), Err(ProofError::Server));
    }

    #[test]
    fn our_server_is_convinced_by_the_right_password_alone_also_of_odd_names() {
        for (password, is_right) in [(&b"pencil"[..], true), (b"pencils", false)] {
            let mut prover = Prover::new("a=b,c", password, "abc");
            let first = ClientFirst::parse(prover.first().as_bytes()).unwrap();
            assert_eq!(first.user, "a=b,c");
            let verifier = ScramVerifier::derive(b"pencil", vec![7; 16]);
            let exchange = Exchange::begin(first, Some(&verifier), &[1; 18], (&[0; 32], None));
            let proof = prover.prove(exchange.server_first().as_bytes()).unwrap();

            let last = exchange.finish(proof.as_bytes());

            assert_eq!(last.is_some(), is_right);
            assert!(last.is_none_or(|last| prover.check(last.as_bytes()).is_ok()));
        }
    }

    #[test]
    fn a_server_that_answers_nonsense_is_told_apart_from_one_that_answers_another() {
        let prove = |text: &str| Prover::new("u", b"p", "abc").prove(text.as_bytes());
        for (text, error) in [
            ("", ProofError::Malformed),
            ("r=abcd,s=AAAA,i=x", ProofError::Malformed),
            ("m=x,r=abcd,s=AAAA,i=4096", ProofError::Malformed),
            ("r=abc,s=AAAA,i=4096", ProofError::Nonce),
            ("r=xyz,s=AAAA,i=4096", ProofError::Nonce),
            ("r=abcd,s=AAAA,i=1", ProofError::Rounds { rounds: 1 }),
            ("r=abcd,s=AAAA,i=4000000000", ProofError::Rounds { rounds: 4_000_000_000 }),
        ] {
            assert_eq!(prove(text), Err(error), "{text}");
        }
        assert_eq!(Prover::new("u", b"p", "abc").check(b"v=AAAA"), Err(ProofError::Server));
    }
}

//! Users, access list and policy at one moment: who is admitted, and as whom.
//!
//! Immutable: when a file changes there is another one, and connections are handed it (`broker::Client::handle_authority`).

use std::sync::Arc;

use bytes::Bytes;

use super::access::Rights;
use super::acl::Acl;
use super::credential::Credential;
use super::scram::{ClientFirst, Exchange, SCRAM_SHA_256, mac};
use super::users::Users;
use crate::model::command::Credentials;
use crate::model::{CertificateIdentity, PeerInfo, Principal, Refusal};

/// Which clients need no credentials.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Anonymous {
    /// Those on this machine, as long as there is no users file.
    #[default]
    LocalUnlessUsers,
    /// Those on this machine.
    Local,
    /// All.
    Everybody,
    /// None.
    Nobody,
}

/// Which name of a verified client certificate is the user's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsIdentity {
    /// None: a certificate opens the connection and says nothing about the user.
    #[default]
    Ignored,
    /// The subject's common name.
    CommonName,
    /// The first of the subject's alternative names: DNS, then e-mail, then URI.
    AlternativeName,
}

/// What the operator decided beside the files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Who is admitted without credentials.
    pub anonymous: Anonymous,
    /// What certificates say.
    pub tls_identity: TlsIdentity,
}

/// Who may do what, at one moment.
#[derive(Debug, Default)]
pub struct Authority {
    policy: Policy,
    /// `None` where no users file is configured.
    users: Option<Users>,
    /// `None` where no access list is configured: everything is allowed.
    acl: Option<Acl>,
    /// The process's own, random: decoys and nonces come from it.
    secret: [u8; 32],
}

/// What becomes of a client's credentials.
#[derive(Debug)]
pub enum Admission {
    /// It is in.
    Granted(Principal),
    /// Something takes time: run the check away from everybody else.
    Check(Box<Check>),
    /// The client is to prove itself in another message.
    Challenge(Box<Challenge>),
    /// It is not.
    Refused(Refusal),
}

/// An exchange that waits for the client.
#[derive(Debug)]
pub struct Challenge {
    user: String,
    exchange: Exchange,
}

/// A verification. Takes tens of milliseconds and MiB: bounded and off the threads that serve.
#[derive(Debug)]
pub struct Check {
    user: String,
    work: Work,
}

#[derive(Debug)]
enum Work {
    /// Verified already, by the TLS handshake.
    Known,
    /// Nothing that could be right.
    Hopeless,
    Password {
        password: Bytes,
        credential: Option<Arc<Credential>>,
        is_known: bool,
    },
    Proof {
        exchange: Exchange,
        message: Bytes,
    },
}

/// Who it is, verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The user.
    pub principal: Principal,
    /// The last word of an exchange, for the client to verify us.
    pub last: Option<Bytes>,
}

impl Authority {
    /// Joins what the edges have read; `secret` is random and the same for the life of the process.
    pub fn new(
        policy: Policy,
        users: Option<Users>,
        acl: Option<Acl>,
        secret: [u8; 32],
    ) -> Authority {
        Authority { policy, users, acl, secret }
    }

    /// The rights of a principal under a client id; `None` is everything.
    pub fn rights(&self, principal: &Principal, client_id: &[u8]) -> Option<Arc<Rights>> {
        self.acl.as_ref().map(|acl| Arc::new(Rights::new(acl, principal, client_id)))
    }

    /// Decides what is to happen with a client's credentials; `attempt` names this attempt in the process, never used before.
    pub fn admit(
        &self,
        peer: &PeerInfo,
        credentials: &Credentials,
        attempt: [u64; 2],
    ) -> Admission {
        if let Some(user) = self.certified(peer) {
            return Admission::check(user, Work::Known);
        }
        match credentials {
            Credentials::None if self.admits_anonymous(peer) => {
                Admission::Granted(Principal::ANONYMOUS)
            }
            Credentials::None => Admission::Refused(Refusal::CredentialsNeeded),
            Credentials::Password { user, password } => {
                self.check_password(user, password.0.clone())
            }
            Credentials::Exchange { method, first } => self.begin(method, &first.0, attempt),
        }
    }

    /// Begins an exchange, in the place of credentials or again in a connection that stands.
    pub fn begin(&self, method: &[u8], first: &[u8], attempt: [u64; 2]) -> Admission {
        let Some(users) = self.users.as_ref().filter(|_| method == SCRAM_SHA_256.as_bytes()) else {
            return Admission::Refused(Refusal::AuthenticationMethod);
        };
        let Some(first) = ClientFirst::parse(first) else {
            return Admission::check(String::new(), Work::Hopeless);
        };
        let user = first.user.clone();
        let attempt = [attempt[0].to_le_bytes(), attempt[1].to_le_bytes()].concat();
        let nonce = mac(&self.secret, &[b"nonce:", &attempt[..]].concat());
        let rounds = users.scram_rounds();
        let verifier = users.scram(&user);
        let exchange = Exchange::begin(first, verifier, &nonce[..18], (&self.secret, rounds));
        Admission::Challenge(Box::new(Challenge { user, exchange }))
    }

    /// Tells whether a connection that `before` admitted as `principal` would be admitted still, by what it said then.
    pub fn keeps(&self, before: &Authority, peer: &PeerInfo, principal: &Principal) -> bool {
        let Some(name) = principal.name() else { return self.admits_anonymous(peer) };
        if before.certified(peer).as_deref() == Some(name) {
            return self.certified(peer).as_deref() == Some(name);
        }
        let user = |authority: &Authority| authority.users.as_ref()?.get(name).cloned();
        let known = user(self);
        known.is_some() && known == user(before)
    }

    fn admits_anonymous(&self, peer: &PeerInfo) -> bool {
        match self.policy.anonymous {
            Anonymous::LocalUnlessUsers => self.users.is_none() && peer.is_local(),
            Anonymous::Local => peer.is_local(),
            Anonymous::Everybody => true,
            Anonymous::Nobody => false,
        }
    }

    /// The name in a client's certificate, when it says who the user is.
    fn certified(&self, peer: &PeerInfo) -> Option<String> {
        let certificate = peer.certificate.as_deref()?;
        let name = match self.policy.tls_identity {
            TlsIdentity::Ignored => None,
            TlsIdentity::CommonName => certificate.common_name.as_ref(),
            TlsIdentity::AlternativeName => alternative_name(certificate),
        };
        let name = Principal::user(Bytes::copy_from_slice(name?.as_bytes())).ok()?;
        name.name().map(str::to_owned)
    }

    fn check_password(&self, user: &Bytes, password: Bytes) -> Admission {
        let name = String::from_utf8_lossy(user).into_owned();
        let Some(users) = &self.users else { return Admission::check(name, Work::Hopeless) };
        let own = users.get(&name).and_then(|user| user.for_password());
        let is_known = own.is_some();
        let credential = own.or_else(|| users.decoy(&self.secret, &name)).cloned();
        Admission::check(name, Work::Password { password, credential, is_known })
    }
}

fn alternative_name(certificate: &CertificateIdentity) -> Option<&String> {
    let CertificateIdentity { dns_names, emails, uris, .. } = certificate;
    dns_names.first().or(emails.first()).or(uris.first())
}

impl Admission {
    fn check(user: String, work: Work) -> Admission {
        Admission::Check(Box::new(Check { user, work }))
    }
}

impl Challenge {
    /// What to tell the client.
    pub fn message(&self) -> Bytes {
        Bytes::copy_from_slice(self.exchange.server_first().as_bytes())
    }

    /// Takes the client's answer.
    pub fn answered(self, message: Bytes) -> Check {
        let Challenge { user, exchange } = self;
        Check { user, work: Work::Proof { exchange, message } }
    }
}

impl Check {
    /// Who the client says it is, as it says it: for logs, escaped.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Returns true when it takes long.
    pub fn is_costly(&self) -> bool {
        matches!(self.work, Work::Password { .. })
    }

    /// Does it.
    pub fn run(self) -> Result<Verified, Refusal> {
        let (is_right, last) = match self.work {
            Work::Known => (true, None),
            Work::Hopeless => (false, None),
            Work::Password { password, credential, is_known } => {
                // Always verified: how long it takes must not tell who exists.
                let fits = credential.is_some_and(|credential| credential.verify(&password));
                (fits && is_known, None)
            }
            Work::Proof { exchange, message } => {
                let last = exchange.finish(&message);
                (last.is_some(), last.map(Bytes::from))
            }
        };
        let principal = Principal::user(Bytes::from(self.user)).ok().filter(|_| is_right);
        principal.map(|principal| Verified { principal, last }).ok_or(Refusal::BadCredentials)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users() -> Users {
        let line = |name: &str, credential: Credential| format!("{name}:{credential}\n");
        let alice = line("alice", Credential::argon2id(b"secret", [1; 16]).unwrap());
        let bob = line("bob", Credential::scram(b"pencil", [2; 16]).unwrap());
        Users::parse(&format!("{alice}{bob}")).unwrap()
    }

    fn authority(anonymous: Anonymous, users: Option<Users>) -> Authority {
        let policy = Policy { anonymous, tls_identity: TlsIdentity::CommonName };
        Authority::new(policy, users, None, [9; 32])
    }

    fn peer(address: &str) -> PeerInfo {
        PeerInfo::tcp(address.parse().unwrap())
    }

    fn password(user: &str, password: &str) -> Credentials {
        let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        Credentials::Password { user: bytes(user), password: bytes(password).into() }
    }

    fn check(authority: &Authority, credentials: &Credentials) -> Result<Verified, Refusal> {
        match authority.admit(&peer("192.0.2.1:1"), credentials, [0, 0]) {
            Admission::Check(check) => check.run(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_right_password_is_needed() {
        let authority = authority(Anonymous::default(), Some(users()));
        let name = |found: Result<Verified, Refusal>| {
            found.map(|it| it.principal.name().unwrap().to_owned())
        };

        assert_eq!(name(check(&authority, &password("alice", "secret"))), Ok("alice".to_owned()));
        assert_eq!(name(check(&authority, &password("bob", "pencil"))), Ok("bob".to_owned()));
        for (user, wrong) in [
            ("alice", "pencil"),
            ("bob", "secret"),
            ("ghost", "secret"),
            ("ghost", "pencil"),
            ("", ""),
        ] {
            let found = check(&authority, &password(user, wrong));
            assert_eq!(name(found), Err(Refusal::BadCredentials), "{user}");
        }
        let nobody = self::authority(Anonymous::default(), None);
        assert_eq!(
            name(check(&nobody, &password("alice", "secret"))),
            Err(Refusal::BadCredentials)
        );
    }

    #[test]
    fn who_does_not_say_who_it_is_is_admitted_by_policy() {
        let (here, there) = (peer("127.0.0.1:1"), peer("192.0.2.1:1"));
        let cases = [
            (Anonymous::LocalUnlessUsers, None, [true, false]),
            (Anonymous::LocalUnlessUsers, Some(users()), [false, false]),
            (Anonymous::Local, Some(users()), [true, false]),
            (Anonymous::Everybody, Some(users()), [true, true]),
            (Anonymous::Nobody, None, [false, false]),
        ];
        for (anonymous, users, expected) in cases {
            let authority = authority(anonymous, users);
            let found = [&here, &there].map(|peer| {
                matches!(authority.admit(peer, &Credentials::None, [0, 0]), Admission::Granted(it) if it.is_anonymous())
            });
            assert_eq!(found, expected, "{anonymous:?}");
        }
    }

    #[test]
    fn a_certificate_says_who_it_is_whatever_the_credentials() {
        let certificate = CertificateIdentity {
            common_name: Some("device-1".to_owned()),
            ..CertificateIdentity::default()
        };
        let peer = PeerInfo { certificate: Some(Arc::new(certificate)), ..peer("192.0.2.1:1") };
        let authority = authority(Anonymous::Nobody, None);

        let admission = authority.admit(&peer, &password("alice", "wrong"), [0, 0]);

        let Admission::Check(check) = admission else { panic!("{admission:?}") };
        let verified = check.run().unwrap();
        assert_eq!(verified.principal.name(), Some("device-1"));
        assert!(authority.keeps(&authority, &peer, &verified.principal));
        let ignoring = Authority::new(Policy::default(), None, None, [9; 32]);
        assert!(!ignoring.keeps(&authority, &peer, &verified.principal));
    }

    #[test]
    fn a_connection_is_kept_while_its_user_is_unchanged() {
        let before = authority(Anonymous::Local, Some(users()));
        let named = |name: &'static str| Principal::user(Bytes::from(name)).unwrap();
        let there = peer("192.0.2.1:1");
        let changed = format!("alice:{}\n", Credential::argon2id(b"new", [3; 16]).unwrap());
        let after = authority(Anonymous::Nobody, Some(Users::parse(&changed).unwrap()));

        assert!(before.keeps(&before, &there, &named("alice")));
        assert!(!after.keeps(&before, &there, &named("alice")));
        assert!(!after.keeps(&before, &there, &named("bob")));
        assert!(before.keeps(&before, &peer("127.0.0.1:1"), &Principal::ANONYMOUS));
        assert!(!after.keeps(&before, &peer("127.0.0.1:1"), &Principal::ANONYMOUS));
    }

    #[test]
    fn an_exchange_never_tells_who_exists() {
        let authority = authority(Anonymous::Nobody, Some(users()));
        let begin = |user: &str| {
            let first = Bytes::from(format!("n,,n={user},r=abc"));
            let admission = authority.begin(b"SCRAM-SHA-256", &first, [1, 2]);
            let Admission::Challenge(challenge) = admission else { panic!("{admission:?}") };
            challenge
        };
        let (bob, ghost) = (begin("bob").message(), begin("ghost").message());

        assert_eq!(bob.len(), ghost.len());
        assert_eq!(
            bob.split(|byte| *byte == b',').next(),
            ghost.split(|byte| *byte == b',').next()
        );
        let wrong = Bytes::from_static(b"c=biws,r=x,p=eA==");
        assert_eq!(begin("bob").answered(wrong.clone()).run(), Err(Refusal::BadCredentials));
        assert_eq!(begin("ghost").answered(wrong).run(), Err(Refusal::BadCredentials));
    }

    #[test]
    fn only_methods_that_exist_begin() {
        let with_users = authority(Anonymous::Nobody, Some(users()));
        let without = authority(Anonymous::Nobody, None);
        for (authority, method) in [(&with_users, "SCRAM-SHA-1"), (&without, "SCRAM-SHA-256")] {
            let admission = authority.begin(method.as_bytes(), b"n,,n=u,r=x", [0, 0]);
            assert!(matches!(admission, Admission::Refused(Refusal::AuthenticationMethod)));
        }
    }
}

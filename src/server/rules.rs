//! The files that say who may do what: read at the start, and again when they change or the process is told to (SIGHUP).
//!
//! A file with a bad line changes nothing: the rules before it stay, and the log says what is wrong.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use thiserror::Error;
use tokio::sync::watch;

use crate::auth::{Acl, Anonymous, Authority, Policy, Problems, TlsIdentity, Users};
use crate::config::{self, Config};

/// Time between two looks at whether a file changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Where the rules come from.
#[derive(Clone, Debug)]
pub struct Rules {
    policy: Policy,
    users_file: Option<PathBuf>,
    acl_file: Option<PathBuf>,
    secret: [u8; 32],
    /// What the files looked like when they were read last.
    seen: Vec<Option<(SystemTime, u64)>>,
}

/// Why a file of rules cannot be used.
#[derive(Debug, Error)]
pub enum RulesError {
    /// It cannot be read.
    #[error("cannot read {field} {}: {source}", path.display())]
    Read {
        /// The field that names it.
        field: &'static str,
        /// Its path.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Lines of it are wrong.
    #[error("{field} {} is wrong:\n{problems}", path.display())]
    Lines {
        /// The field that names it.
        field: &'static str,
        /// Its path.
        path: PathBuf,
        /// Every bad line.
        problems: Problems,
    },
}

impl Rules {
    /// Takes paths and policy from the configuration; nothing is read.
    pub fn new(config: &Config) -> Rules {
        let random = [uuid::Uuid::new_v4().into_bytes(), uuid::Uuid::new_v4().into_bytes()];
        let mut secret = [0; 32];
        secret.iter_mut().zip(random.as_flattened()).for_each(|(byte, random)| *byte = *random);
        Rules {
            policy: Policy {
                anonymous: match config.authentication.anonymous {
                    config::Anonymous::Auto => Anonymous::LocalUnlessUsers,
                    config::Anonymous::Loopback => Anonymous::Local,
                    config::Anonymous::UnsafeAlways => Anonymous::Everybody,
                    config::Anonymous::Never => Anonymous::Nobody,
                },
                tls_identity: match config.authentication.tls_identity {
                    config::TlsIdentity::None => TlsIdentity::Ignored,
                    config::TlsIdentity::Cn => TlsIdentity::CommonName,
                    config::TlsIdentity::San => TlsIdentity::AlternativeName,
                },
            },
            users_file: config.authentication.users_file.clone(),
            acl_file: config.authorization.acl_file.clone(),
            secret,
            seen: Vec::new(),
        }
    }

    /// Returns true when there are files that could change.
    pub fn may_change(&self) -> bool {
        self.users_file.is_some() || self.acl_file.is_some()
    }

    /// Reads the files.
    pub fn load(&mut self) -> Result<Authority, RulesError> {
        self.seen = self.look();
        let users = "authentication.users_file";
        let acl = "authorization.acl_file";
        let users = self.users_file.as_deref().map(|path| read(users, path, Users::parse));
        let acl = self.acl_file.as_deref().map(|path| read(acl, path, Acl::parse));
        if let Some(path) = self.users_file.as_deref().filter(|path| is_open_to_others(path)) {
            let path = path.display();
            tracing::warn!(%path, "others on this machine may read the users file: run chmod 600 on it");
        }
        Ok(Authority::new(self.policy, users.transpose()?, acl.transpose()?, self.secret))
    }

    /// Reads the files again whenever they changed or `told` says so, for as long as anybody listens.
    pub async fn watch(
        mut self,
        authority: watch::Sender<Arc<Authority>>,
        mut told: watch::Receiver<()>,
    ) {
        loop {
            let is_told = tokio::select! {
                Ok(()) = told.changed() => true,
                () = tokio::time::sleep(LOOK_EVERY) => false,
                () = authority.closed() => return,
            };
            if !is_told && self.look() == self.seen {
                continue;
            }
            match self.load() {
                Ok(new) => {
                    authority.send_replace(Arc::new(new));
                    tracing::info!("users and access list read again");
                }
                Err(error) => tracing::error!("{error}\nthe rules before it stay in force"),
            }
        }
    }

    fn look(&self) -> Vec<Option<(SystemTime, u64)>> {
        let look = |path: &PathBuf| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        };
        [&self.users_file, &self.acl_file].into_iter().flatten().map(look).collect()
    }
}

fn read<T>(
    field: &'static str,
    path: &Path,
    parse: impl Fn(&str) -> Result<T, Problems>,
) -> Result<T, RulesError> {
    let text = std::fs::read_to_string(path).map_err(|source| RulesError::Read {
        field,
        path: path.to_owned(),
        source,
    })?;
    parse(&text).map_err(|problems| RulesError::Lines { field, path: path.to_owned(), problems })
}

fn is_open_to_others(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{PeerInfo, Principal};

    fn rules(dir: &Path) -> Rules {
        let mut config = Config::default();
        config.authorization.acl_file = Some(dir.join("acl"));
        Rules::new(&config)
    }

    fn may_read(authority: &Authority) -> bool {
        let rights = authority.rights(&Principal::ANONYMOUS, b"c").expect("there is a list");
        rights.reach(crate::auth::Action::Receive, "a") == crate::auth::Reach::All
    }

    #[test]
    fn a_bad_file_is_named_with_its_field_and_lines() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("acl"), "topic read a\ntopics b\n").unwrap();

        let error = rules(dir.path()).load().unwrap_err().to_string();

        assert!(error.starts_with("authorization.acl_file "), "{error}");
        assert!(error.contains("line 2: begins with none"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_file_is_read_and_a_bad_one_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("acl");
        std::fs::write(&file, "topic read a\n").unwrap();
        let mut rules = rules(dir.path());
        let (sender, mut receiver) = watch::channel(Arc::new(rules.load().unwrap()));
        assert!(may_read(&receiver.borrow_and_update()));
        let watching = tokio::spawn(rules.watch(sender, watch::channel(()).1));

        std::fs::write(&file, "nonsense\n").unwrap();
        tokio::time::sleep(LOOK_EVERY * 3).await;
        assert!(!receiver.has_changed().unwrap());

        std::fs::write(&file, "topic read another\n").unwrap();
        receiver.changed().await.unwrap();
        assert!(!may_read(&receiver.borrow_and_update()));
        drop(receiver);
        watching.await.unwrap();
    }

    #[test]
    fn without_files_everybody_here_may_do_everything() {
        let mut rules = Rules::new(&Config::default());
        let authority = rules.load().unwrap();

        assert!(!rules.may_change());
        assert!(authority.rights(&Principal::ANONYMOUS, b"c").is_none());
        let here = PeerInfo::tcp("127.0.0.1:1".parse().unwrap());
        assert!(authority.keeps(&authority, &here, &Principal::ANONYMOUS));
    }
}

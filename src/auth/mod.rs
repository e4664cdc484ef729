//! Who a client is and what it may do: users and their credentials, the access list, and the one decision made of both.
//!
//! * [`users`]: the users file, and [`credential`] for what a line of it holds.
//! * [`scram`]: SCRAM-SHA-256, the server's side, and the client's for our tools.
//! * [`acl`]: the access list; [`filter`] compares the sets of topics that filters mean, `permission` is what it says of virtual hosts.
//! * [`authority`]: both files and the policy, at one moment: who is admitted.
//! * [`access`]: what one connection may do, the choke point of every publish and every delivery (ADR 0021).
//! * [`throttle`]: addresses that guess.
//!
//! Pure: files are read, secrets made and time told by the edges. A check that takes long is a value ([`Check`]) that the edges run.

pub mod access;
pub mod acl;
pub mod authority;
pub mod credential;
pub mod filter;
mod permission;
pub mod problem;
pub mod scram;
pub mod throttle;
pub mod users;

pub use access::{Access, Action, Reach, Rights};
pub use acl::Acl;
pub use authority::{Admission, Anonymous, Authority, Check, Policy, TlsIdentity, Verified};
pub use credential::Credential;
pub use problem::{Problem, Problems};
pub use users::Users;

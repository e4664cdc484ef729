//! A replica whose log is damaged: nobody is served, peers are asked for what is missing, and then it is a replica like any other.
//!
//! Damage is found when a log is opened, or while it runs: a frame that does not read back, or that a peer asked for. A leader hands
//! over first. With one voter nobody has what is lost, and the partition stops as before.

use std::path::PathBuf;

use bytes::Bytes;
use fluxmq_log::disk::Disk;
use fluxmq_log::{Damage, Fenced as FencedLog, Log, LogOptions, OpenError, ReadError, Recovery};
use fluxmq_log::{SnapshotError, TruncateError};

use super::history::HistoryError;
use super::request::{ConnectionId, Outbox, Request};
use super::stop::refuse;
use super::{Options, Partition, PartitionError, ReceiveError};
use crate::model::{Millis, PartitionId, Refusal};
use crate::raft::{Member, NodeError, Parting, Repair, RepairError, Repaired, ReplicaId};

/// A replica as it was found.
pub enum Opened<D: Disk> {
    /// Intact: it takes part.
    Running(Box<Partition<D>>),
    /// Damaged: it waits for repair.
    Fenced(Box<Fenced<D>>),
}

/// A replica that waits for repair.
pub struct Fenced<D: Disk> {
    id: PartitionId,
    options: Options,
    member: Member,
    repair: Repair<D>,
    /// What it had to say when it left.
    parting: Parting,
    services: Services,
}

/// The connections of this process that a replica serves whoever leads: nobody tells it of them twice.
#[derive(Clone, Copy, Debug, Default)]
struct Services {
    /// Who publishes wills.
    publisher: Option<ConnectionId>,
    /// Who carries letters.
    courier: Option<ConnectionId>,
}

impl Services {
    fn forget(&mut self, connection: ConnectionId) {
        self.publisher = self.publisher.filter(|publisher| *publisher != connection);
        self.courier = self.courier.filter(|courier| *courier != connection);
    }
}

/// How a repair stands.
#[derive(Clone, Debug, PartialEq)]
pub struct FenceStatus {
    /// Which replica.
    pub id: ReplicaId,
    /// What is missing, as far as is known.
    pub damage: Vec<Damage>,
    /// What of it every peer was asked for in vain: until one of them has it the partition stands still here.
    pub lost: Vec<Damage>,
    /// Whom it asks.
    pub peers: Vec<ReplicaId>,
    /// What was done so far.
    pub repaired: Repaired,
}

impl std::fmt::Display for FenceStatus {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.lost.first(), self.damage.len()) {
            (None, missing) => write!(formatter, "waits for repair of {missing} places"),
            (Some(lost), _) => {
                let peers: Vec<u64> = self.peers.iter().map(|peer| peer.0).collect();
                write!(formatter, "stopped: replicas {peers:?} do not have what is lost: {lost}")
            }
        }
    }
}

impl<D: Disk> Opened<D> {
    /// Opens a replica that has peers on what its disk holds: damage fences it. Everything else is as for [`Log::open`] and
    /// [`Partition::open`].
    pub fn open(
        id: PartitionId,
        (disk, dir, log_options): (D, PathBuf, LogOptions),
        options: Options,
        member: &Member,
        now: Millis,
    ) -> Result<(Opened<D>, Recovery), PartitionError> {
        match Log::open(disk.clone(), dir.clone(), log_options) {
            Ok((log, recovery)) => {
                match Partition::open(id, log, options.clone(), member, now) {
                    Ok(partition) => return Ok((Opened::Running(Box::new(partition)), recovery)),
                    Err(error) if error.is_rot() && !member.is_alone() => {}
                    Err(error) => return Err(error),
                };
            }
            Err(error) if is_repairable(&error) && !member.is_alone() => {}
            Err(error) => return Err(PartitionError::Repair(error.into())),
        }
        let fenced = Fenced::open(id, (disk, dir, log_options), options, member, now)?;
        Ok((Opened::Fenced(Box::new(fenced)), Recovery::default()))
    }
}

impl<D: Disk> Fenced<D> {
    fn open(
        id: PartitionId,
        (disk, dir, log_options): (D, PathBuf, LogOptions),
        options: Options,
        member: &Member,
        now: Millis,
    ) -> Result<Fenced<D>, PartitionError> {
        let life = (now.0, member.draw(now.0));
        let log = FencedLog::open(disk, dir, log_options, life).map_err(RepairError::from)?;
        let repair = Repair::open(log, member)?;
        tracing::error!(
            partition = id.0,
            "its log is damaged: the replica takes no part until it is repaired"
        );
        let member = Member { joins: false, ..member.clone() };
        let (parting, services) = (Parting::new(), Services::default());
        Ok(Fenced { id, options, member, repair, parting, services })
    }

    /// Refuses a request. Who publishes wills and carries letters is noted: this replica may lead when it is whole.
    pub fn handle(&mut self, from: ConnectionId, request: &Request, out: &mut impl Outbox) {
        match request {
            Request::PublishWills => self.services.publisher = Some(from),
            Request::CarryLetters => self.services.courier = Some(from),
            Request::Forget => self.services.forget(from),
            _ => {}
        }
        let refusal = Refusal::NotLeader { partition: self.id.0, hint: None };
        refuse(from, request, &refusal, out);
    }

    /// Takes a message of another replica.
    pub fn receive(&mut self, from: ReplicaId, message: Bytes) -> Result<(), ReceiveError> {
        Ok(self.repair.receive(from, message).map_err(PartitionError::from)??)
    }

    /// The next message for another replica.
    pub fn poll_message(&mut self) -> Option<(ReplicaId, Bytes)> {
        self.parting.pop_front().or_else(|| self.repair.poll_message())
    }

    /// Lets time pass.
    pub fn tick(&mut self) -> Result<(), PartitionError> {
        Ok(self.repair.tick()?)
    }

    /// Returns true when nothing is missing any more: [`Fenced::finish`] returns a replica that takes part.
    pub fn is_whole(&self) -> bool {
        self.repair.is_whole()
    }

    /// Opens the log and takes part again.
    pub fn finish(self, now: Millis) -> Result<(Partition<D>, Recovery), PartitionError> {
        let (log, recovery) = self.repair.finish()?;
        let mut partition = Partition::open(self.id, log, self.options, &self.member, now)?;
        self.services.publisher.into_iter().for_each(|it| partition.announcer.register(it));
        self.services.courier.into_iter().for_each(|it| partition.letters.register(it));
        tracing::info!(partition = self.id.0, "the log is repaired; the replica takes part again");
        Ok((partition, recovery))
    }

    /// How the repair stands.
    pub fn status(&self) -> FenceStatus {
        FenceStatus {
            id: self.repair.id(),
            damage: self.repair.damage(),
            lost: self.repair.lost(),
            peers: self.repair.peers(),
            repaired: self.repair.repaired(),
        }
    }
}

impl<D: Disk> Partition<D> {
    /// Leaves the group because of damage that an error told of ([`PartitionError::is_rot`]): hands leadership over, tells whoever is
    /// served here, and waits for repair. No flush may be under way; one that was handed out and never run is forgotten.
    pub fn fence(
        mut self,
        member: &Member,
        now: Millis,
        out: &mut impl Outbox,
    ) -> Result<Fenced<D>, PartitionError> {
        let services =
            Services { publisher: self.announcer.publisher(), courier: self.letters.courier() };
        // Also after a stop, which tells only those who wait.
        self.resign(out);
        let (log, parting) = self.node.leave()?;
        let place = log.into_parts();
        let fenced = Fenced::open(self.id, place, self.options, member, now)?;
        Ok(Fenced { parting, services, ..fenced })
    }
}

impl PartitionError {
    /// Returns true for damage to what was durable: a replica that has peers can be repaired ([`Partition::fence`]).
    pub fn is_rot(&self) -> bool {
        let is_read = |error: &ReadError| matches!(error, ReadError::Damaged { .. });
        match self {
            PartitionError::Read(error)
            | PartitionError::History(HistoryError::Read(error))
            | PartitionError::Node(NodeError::Read(error))
            | PartitionError::Node(NodeError::Truncate(TruncateError::Read(error))) => {
                is_read(error)
            }
            PartitionError::Rotten => true,
            PartitionError::Snapshot(SnapshotError::AllDamaged { .. }) => true,
            _ => false,
        }
    }
}

fn is_repairable(error: &OpenError) -> bool {
    match error {
        OpenError::HardState(_)
        | OpenError::HardStateMissing { .. }
        | OpenError::Damaged(_)
        | OpenError::Missing { .. }
        | OpenError::Lost { .. } => true,
        OpenError::File(_) | OpenError::Foreign { .. } => false,
    }
}

//! The bytes of controls about publishers: which of their QoS 2 publishes are over, and which connection they publish on.

use fluxmq_index::Offset;
use fluxmq_log::format::varint;

use super::control_codec::{Source, put_list};
use super::record::{Control, Tenure};

pub(super) fn put_publisher_control(out: &mut Vec<u8>, control: &Control) {
    match control {
        Control::Released { publisher, incarnation, packet_ids } => {
            out.extend_from_slice(&publisher.to_le_bytes());
            varint::put(out, u64::from(*incarnation));
            put_list(out, packet_ids, |out, id| varint::put(out, u64::from(*id)));
        }
        Control::TenureBegun { publisher, tenure } => {
            out.extend_from_slice(&publisher.to_le_bytes());
            varint::put(out, tenure.term);
            varint::put(out, tenure.epoch.0);
        }
        _ => unreachable!("only controls of publishers come here"),
    }
}

pub(super) fn take_tenure(input: &mut Source<'_>) -> Option<Control> {
    let publisher = input.input.u64()?;
    let (term, epoch) = (input.input.varint()?, Offset(input.input.varint()?));
    Some(Control::TenureBegun { publisher, tenure: Tenure { term, epoch } })
}

//! Names for the numbers that the log stores without knowing what they mean.

/// Opcodes of control records. One without a name here is printed as a number.
const CONTROL_NAMES: &[(u8, &str)] = &[
    (1, "queue-declared"),
    (2, "group-created"),
    (3, "settled"),
    (4, "cursor-set"),
    (5, "session-opened"),
    (6, "session-closed"),
    (7, "session-removed"),
    (8, "subscribed"),
    (9, "unsubscribed"),
    (10, "session-progress"),
    (11, "released"),
    (12, "partitions-fixed"),
    (13, "will-set"),
    (14, "will-due"),
    (15, "will-cleared"),
    (16, "member-joined"),
    (17, "member-left"),
    (18, "claimed"),
    (19, "queue-deleted"),
    (20, "queue-trimmed"),
    (21, "queue-removed"),
    (22, "postponed"),
    (23, "queue-followed"),
    (24, "input-noted"),
    (25, "group-deleted"),
    (26, "tenure-begun"),
    (27, "queue-purged"),
    (28, "queue-used"),
    (30, "history-trimmed"),
    (31, "moved"),
    (32, "exchange-declared"),
    (33, "exchange-deleted"),
    (34, "exchange-bound"),
    (35, "exchange-unbound"),
    (36, "queue-bound"),
    (37, "queue-unbound"),
];

/// Returns the name of a control record's opcode.
pub fn control_name(op: u8) -> Option<&'static str> {
    CONTROL_NAMES.iter().find(|(number, _)| *number == op).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use fluxmq::model::Control;
    use fluxmq::model::record::ControlError;

    use super::*;

    #[test]
    fn every_control_that_there_is_has_a_name() {
        for op in 0..=u8::MAX {
            let decoded = Control::decode(op, &Bytes::new());
            let is_known = !matches!(decoded, Err(ControlError::UnknownOpcode(_)));
            assert_eq!(control_name(op).is_some(), is_known, "opcode {op}");
        }
    }
}

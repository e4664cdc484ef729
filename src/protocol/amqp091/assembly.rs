//! Frames of one channel, put together: a method, and the content behind it where it has some (AMQP 0.9.1 §4.2.6).
//!
//! ```text
//! Method ──one with content──▶ Header ──body to come──▶ Body ──whole──▶ Method
//! ```

use bytes::{Bytes, BytesMut};

use super::ReplyCode;
use super::codec::content::BASIC;
use super::codec::{ContentHeader, DecodeError, Frame, FrameKind, Method, Properties};
use super::violation::Violation;

/// A method with everything that belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Command {
    pub(super) method: Method,
    /// Of those that have some.
    pub(super) content: Option<Content>,
}

/// A message: what is said about it, and its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) properties: Properties,
    /// One frame's is a slice of it.
    pub(super) body: Bytes,
}

/// What a channel waits for.
#[derive(Debug, Default)]
pub(super) enum Assembly {
    #[default]
    Method,
    Header(Method),
    Body {
        method: Method,
        header: ContentHeader,
        body: Body,
    },
}

/// What has come of a body.
#[derive(Debug, Default)]
pub(super) struct Body {
    first: Bytes,
    /// Everything, once there is a second part. Grows with what comes, not with what the header claims.
    joined: BytesMut,
}

impl Assembly {
    /// Takes the next frame; returns a command once it is whole.
    pub(super) fn handle(
        &mut self,
        frame: Frame,
        message_bytes_max: u64,
    ) -> Result<Option<Command>, Violation> {
        if let (Assembly::Method, FrameKind::Method) = (&*self, frame.kind) {
            let method = Method::decode(frame.payload)?;
            // The only one that clients send with content; others are refused as they come.
            if !matches!(method, Method::BasicPublish(_)) {
                return Ok(Some(Command { method, content: None }));
            }
            *self = Assembly::Header(method);
            return Ok(None);
        }
        match (std::mem::take(self), frame.kind) {
            (Assembly::Header(method), FrameKind::Header) => {
                self.on_header(method, frame.payload, message_bytes_max)
            }
            (Assembly::Body { method, header, body }, FrameKind::Body) => {
                self.on_body(method, header, body, frame.payload)
            }
            (expected, _) => Err(expected.unexpected()),
        }
    }

    /// The method whose content is under way.
    pub(super) fn method(&self) -> Option<&Method> {
        match self {
            Assembly::Method => None,
            Assembly::Header(method) | Assembly::Body { method, .. } => Some(method),
        }
    }

    /// Bytes of a body that is not whole.
    pub(super) fn unfinished_bytes(&self) -> usize {
        match self {
            Assembly::Body { body, .. } => body.len(),
            Assembly::Method | Assembly::Header(_) => 0,
        }
    }

    /// Copies what was begun into memory of its own: a slice would keep everything that was read with it, for as long as the rest
    /// does not come.
    pub(super) fn detach(&mut self) {
        let (Assembly::Header(method) | Assembly::Body { method, .. }) = self else { return };
        if let Method::BasicPublish(publish) = method {
            publish.exchange = publish.exchange.detached();
            publish.routing_key = publish.routing_key.detached();
        }
        if let Assembly::Body { header, .. } = self {
            header.properties = header.properties.detached();
        }
        self.detach_body();
    }

    /// The same for the body alone: what is before it was copied already.
    pub(super) fn detach_body(&mut self) {
        if let Assembly::Body { body, .. } = self {
            body.join();
        }
    }

    fn on_header(
        &mut self,
        method: Method,
        payload: Bytes,
        message_bytes_max: u64,
    ) -> Result<Option<Command>, Violation> {
        let header = ContentHeader::decode(payload).map_err(|error| match error {
            DecodeError::ContentClass { class } => {
                let text = format!(
                    "expected content header for class {BASIC}, got one for class {class} instead"
                );
                Violation::new(ReplyCode::UnexpectedFrame, text)
            }
            error => error.into(),
        })?;
        let bytes = header.body_bytes;
        if bytes > message_bytes_max {
            let text = format!(
                "message size {bytes} is larger than configured max size {message_bytes_max}"
            );
            return Err(Violation::new(ReplyCode::PreconditionFailed, text));
        }
        if bytes == 0 {
            let content = Content { properties: header.properties, body: Bytes::new() };
            return Ok(Some(Command { method, content: Some(content) }));
        }
        *self = Assembly::Body { method, header, body: Body::default() };
        Ok(None)
    }

    /// [4.2.6]: content that is not as long as its header says is an unexpected frame.
    fn on_body(
        &mut self,
        method: Method,
        header: ContentHeader,
        mut body: Body,
        part: Bytes,
    ) -> Result<Option<Command>, Violation> {
        let has = (body.len() + part.len()) as u64;
        if has > header.body_bytes {
            let text = format!("a body of {} bytes has {has} or more", header.body_bytes);
            return Err(Violation::new(ReplyCode::UnexpectedFrame, text));
        }
        body.push(part);
        if has < header.body_bytes {
            *self = Assembly::Body { method, header, body };
            return Ok(None);
        }
        let content = Content { properties: header.properties, body: body.into_bytes() };
        Ok(Some(Command { method, content: Some(content) }))
    }

    fn unexpected(&self) -> Violation {
        let text = match self {
            Assembly::Method => "expected method frame, got non method frame instead".to_owned(),
            Assembly::Header(_) => format!(
                "expected content header for class {BASIC}, got non content header frame instead"
            ),
            Assembly::Body { .. } => {
                "expected content body, got non content body frame instead".to_owned()
            }
        };
        Violation::new(ReplyCode::UnexpectedFrame, text)
    }
}

impl Body {
    fn len(&self) -> usize {
        self.first.len() + self.joined.len()
    }

    fn push(&mut self, part: Bytes) {
        if self.len() == 0 {
            self.first = part;
            return;
        }
        self.join();
        self.joined.extend_from_slice(&part);
    }

    fn join(&mut self) {
        if !self.first.is_empty() {
            self.joined.extend_from_slice(&std::mem::take(&mut self.first));
        }
    }

    fn into_bytes(self) -> Bytes {
        if self.joined.is_empty() { self.first } else { self.joined.freeze() }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BufMut;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::codec::method::{BasicPublish, ChannelFlow};
    use super::super::codec::{Property, content, frame};
    use super::*;

    const BYTES_MAX: u64 = 1 << 20;

    fn frames(mut bytes: BytesMut) -> Vec<Frame> {
        let next = std::iter::from_fn(|| frame::decode(&mut bytes, u32::MAX).unwrap());
        next.collect()
    }

    fn publish(body: &[u8], frame_bytes_max: u32) -> Vec<Frame> {
        let mut out = BytesMut::new();
        Method::from(BasicPublish::default()).encode(1, &mut out);
        let properties = Properties::encode([Property::Priority(3)]);
        content::encode(1, &properties, body, frame_bytes_max, &mut out);
        frames(out)
    }

    fn raw(kind: FrameKind, payload: &[u8]) -> Frame {
        Frame { kind, channel: 1, payload: Bytes::copy_from_slice(payload) }
    }

    fn refused(assembly: &mut Assembly, frame: Frame) -> (ReplyCode, String) {
        let violation = assembly.handle(frame, BYTES_MAX).unwrap_err();
        (violation.code, violation.text)
    }

    proptest! {
        #[test]
        fn content_comes_whole_however_it_was_cut(body in vec(any::<u8>(), 0..300), part in 1u32..400) {
            let mut assembly = Assembly::default();
            let frames = publish(&body, part + 8);
            let (last, others) = frames.split_last().unwrap();
            for (at, frame) in others.iter().enumerate() {
                prop_assert_eq!(assembly.handle(frame.clone(), BYTES_MAX), Ok(None));
                let expected = at.saturating_sub(1) * part as usize;
                prop_assert_eq!(assembly.unfinished_bytes(), expected);
            }
            let command = assembly.handle(last.clone(), BYTES_MAX).unwrap().unwrap();
            prop_assert_eq!(&command.content.unwrap().body[..], &body[..]);
            prop_assert_eq!((assembly.unfinished_bytes(), assembly.method()), (0, None));
        }
    }

    #[test]
    fn the_body_of_one_frame_is_not_copied() {
        let frames = publish(b"body", 4096);
        let mut assembly = Assembly::default();

        let command =
            frames.iter().find_map(|frame| assembly.handle(frame.clone(), BYTES_MAX).unwrap());

        let body = command.unwrap().content.unwrap().body;
        assert_eq!(body.as_ptr(), frames[2].payload.as_ptr());
    }

    #[test]
    fn a_frame_out_of_turn_is_an_unexpected_frame() {
        let frames = publish(b"body", 4096);
        let out_of_turn = [
            (0, FrameKind::Header, "expected method frame, got non method frame instead"),
            (0, FrameKind::Body, "expected method frame, got non method frame instead"),
            (
                1,
                FrameKind::Method,
                "expected content header for class 60, got non content header frame instead",
            ),
            (
                1,
                FrameKind::Body,
                "expected content header for class 60, got non content header frame instead",
            ),
            (2, FrameKind::Method, "expected content body, got non content body frame instead"),
            (2, FrameKind::Header, "expected content body, got non content body frame instead"),
        ];
        for (count, kind, expected) in out_of_turn {
            let mut assembly = Assembly::default();
            for frame in &frames[..count] {
                assert_eq!(assembly.handle(frame.clone(), BYTES_MAX), Ok(None));
            }
            let found = refused(&mut assembly, raw(kind, b""));
            assert_eq!(found, (ReplyCode::UnexpectedFrame, expected.to_owned()));
        }
    }

    #[test]
    fn content_is_as_long_as_its_header_says_and_no_longer_than_allowed() {
        let header = |class: u16, body_bytes: u64| {
            let mut payload = BytesMut::new();
            payload.put_u16(class);
            payload.put_u16(0);
            payload.put_u64(body_bytes);
            payload.put_u16(0);
            raw(FrameKind::Header, &payload)
        };
        let begun = || Assembly::Header(BasicPublish::default().into());

        let (code, _) = refused(&mut begun(), header(60, BYTES_MAX + 1));
        assert_eq!(code, ReplyCode::PreconditionFailed);
        assert_eq!(refused(&mut begun(), header(50, 1)).0, ReplyCode::UnexpectedFrame);
        let mut assembly = begun();
        assert_eq!(assembly.handle(header(60, 3), BYTES_MAX), Ok(None));
        assert_eq!(assembly.handle(raw(FrameKind::Body, b""), BYTES_MAX), Ok(None));
        assert_eq!(
            refused(&mut assembly, raw(FrameKind::Body, b"four")).0,
            ReplyCode::UnexpectedFrame
        );
        // A header may claim what it likes: nothing is set aside for it.
        let mut assembly = begun();
        assert_eq!(assembly.handle(header(60, BYTES_MAX), BYTES_MAX), Ok(None));
        let Assembly::Body { body, .. } = &assembly else { panic!("a body is awaited") };
        assert_eq!(body.joined.capacity(), 0);
    }

    #[test]
    fn a_method_without_content_is_whole() {
        let method = Method::from(ChannelFlow { active: true });
        let mut out = BytesMut::new();
        method.encode(1, &mut out);

        let command = Assembly::default().handle(frames(out).remove(0), BYTES_MAX);

        assert_eq!(command, Ok(Some(Command { method, content: None })));
    }
}

//! One test per normative statement of each protocol, named by it. Sans-IO: real bytes, no sockets, no clock.

mod mqtt;

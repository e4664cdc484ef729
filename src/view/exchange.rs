//! Exchanges, and which of them are bound to which: in the meta partition, because everybody needs all of them (ADR 0054).
//!
//! A binding between exchanges ends with either of them. Those of queues are in the queues' homes: `binding.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use fluxmq_index::Offset;
use serde::{Deserialize, Serialize};

use super::section::{decode_rows, encode_rows};
use super::{SectionError, View};
use crate::model::{Control, ExchangeBinding, ExchangeId, ExchangeSettings, Millis, Record};

/// All that were declared.
#[derive(Debug, Default)]
pub struct Exchanges {
    by_name: BTreeMap<Bytes, Exchange>,
    bindings: BTreeSet<(ExchangeBinding, ExchangeId)>,
}

/// One exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// Which.
    pub id: ExchangeId,
    /// What it was declared to be.
    pub settings: Arc<ExchangeSettings>,
}

#[derive(Serialize, Deserialize)]
struct Rows {
    /// Name, offset of its declaration, and settings as in its record.
    exchanges: Vec<(Vec<u8>, u64, Vec<u8>)>,
    /// The binding as in its record, and which exchange gets it.
    bindings: Vec<(Vec<u8>, Vec<u8>, u64)>,
}

impl Exchanges {
    /// Returns the exchange of a name.
    pub fn get(&self, name: &[u8]) -> Option<&Exchange> {
        self.by_name.get(name)
    }

    /// Lists them by name.
    pub fn iter(&self) -> impl Iterator<Item = &Exchange> {
        self.by_name.values()
    }

    /// Lists the bindings between them.
    pub fn bindings(&self) -> impl Iterator<Item = &(ExchangeBinding, ExchangeId)> {
        self.bindings.iter()
    }

    /// Returns true when an exchange is bound just so.
    pub fn is_bound(&self, binding: &ExchangeBinding, to: &ExchangeId) -> bool {
        self.bindings.contains(&(binding.clone(), to.clone()))
    }

    /// Returns true when an exchange routes to another.
    pub fn routes(&self, from: &ExchangeId) -> bool {
        self.bindings.iter().any(|(binding, _)| binding.exchange == *from)
    }

    fn is_there(&self, exchange: &ExchangeId) -> bool {
        let declared = self.get(&exchange.name).is_some_and(|known| known.id == *exchange);
        declared || ExchangeId::predeclared(&exchange.name).as_ref() == Some(exchange)
    }
}

impl View for Exchanges {
    fn name(&self) -> &'static str {
        "exchanges"
    }

    fn apply(&mut self, at: Offset, _time: Millis, record: Record<'_>) {
        match record {
            Record::Control(Control::ExchangeDeclared { name, settings }) => {
                if !self.by_name.contains_key(name) {
                    let name = Bytes::copy_from_slice(name);
                    let id = ExchangeId { name: name.clone(), declared: at };
                    let settings = Arc::new(settings.checked());
                    self.by_name.insert(name, Exchange { id, settings });
                }
            }
            Record::Control(Control::ExchangeDeleted { exchange }) => {
                if self.get(&exchange.name).is_some_and(|known| known.id == *exchange) {
                    self.by_name.remove(&exchange.name);
                    self.bindings
                        .retain(|(binding, to)| binding.exchange != *exchange && to != exchange);
                }
            }
            Record::Control(Control::ExchangeBound { binding, to }) => {
                if self.is_there(&binding.exchange) && self.is_there(to) {
                    self.bindings.insert((binding.detached(), to.detached()));
                }
            }
            Record::Control(Control::ExchangeUnbound { binding, to }) => {
                self.bindings.remove(&((**binding).clone(), to.clone()));
            }
            Record::Control(_) | Record::Message(..) => {}
        }
    }

    fn due(&self, _now: Millis, _out: &mut Vec<Control>) {}

    fn snapshot(&self) -> Vec<u8> {
        let exchange = |Exchange { id, settings }: &Exchange| {
            (id.name.to_vec(), id.declared.0, settings.to_bytes())
        };
        let binding = |(binding, to): &(ExchangeBinding, ExchangeId)| {
            (binding.to_bytes(), to.name.to_vec(), to.declared.0)
        };
        encode_rows(&Rows {
            exchanges: self.iter().map(exchange).collect(),
            bindings: self.bindings.iter().map(binding).collect(),
        })
    }

    fn restore(&mut self, section: &[u8]) -> Result<(), SectionError> {
        *self = Exchanges::default();
        let rows: Rows = decode_rows(section)?;
        for (name, declared, settings) in rows.exchanges {
            let settings = ExchangeSettings::from_bytes(&settings.into());
            let settings = Arc::new(settings.ok_or(SectionError::Settings)?.checked());
            let id = ExchangeId { name: name.into(), declared: Offset(declared) };
            self.by_name.insert(id.name.clone(), Exchange { id, settings });
        }
        for (binding, name, declared) in rows.bindings {
            let binding = ExchangeBinding::from_bytes(&binding.into());
            let binding = binding.ok_or(SectionError::Settings)?.detached();
            let to = ExchangeId { name: name.into(), declared: Offset(declared) };
            self.bindings.insert((binding, to));
        }
        Ok(())
    }
}

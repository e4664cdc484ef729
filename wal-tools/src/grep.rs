//! Prints messages that match, as `dump` does or as mosquitto's clients do.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::ControlFlow;

use crate::arguments::{Format, GrepArguments, GrepFormat};
use crate::record_line::{self, Style};
use crate::search::{Hit, Search};
use crate::tree::Tree;
use crate::walk::Walk;
use crate::{CommandError, EXIT_CORRUPTION, text, warn};

/// Prints what is found under a path and returns the exit code: 2 when damage was stepped over.
pub fn run(arguments: &GrepArguments, out: &mut impl Write) -> Result<u8, CommandError> {
    let mut search = Search::new(&arguments.search);
    let mut walk = Walk::default();
    let mut counts: BTreeMap<u32, u64> = BTreeMap::new();
    let mut left = arguments.limit.unwrap_or(u64::MAX);
    search.run(&mut walk, &mut |hit: Hit<'_>| {
        if left == 0 {
            return Ok(ControlFlow::Break(()));
        }
        left -= 1;
        *counts.entry(hit.place.partition).or_default() += 1;
        if !arguments.count {
            print(arguments, &hit, out)?;
        }
        Ok(ControlFlow::Continue(()))
    })?;
    if arguments.count {
        for (partition, count) in &counts {
            match arguments.format {
                GrepFormat::Json => {
                    let partition = ("partition", Tree::Number(u64::from(*partition)));
                    let line = Tree::Fields(vec![partition, ("count", Tree::Number(*count))]);
                    writeln!(out, "{}", line.to_json())?;
                }
                GrepFormat::Text | GrepFormat::Mosquitto => {
                    writeln!(out, "p{partition:04} {count}")?;
                }
            }
        }
    }
    if arguments.stats {
        let cost = search.cost;
        warn(&format_args!(
            "found {} messages; read {} of {} in segments: {} through their index, {} whole",
            counts.values().sum::<u64>(),
            text::size(cost.bytes_read),
            text::size(cost.bytes_there),
            cost.indexed,
            cost.scanned,
        ));
    }
    Ok(if walk.damage_count > 0 { EXIT_CORRUPTION } else { 0 })
}

fn print(
    arguments: &GrepArguments,
    hit: &Hit<'_>,
    out: &mut impl Write,
) -> Result<(), CommandError> {
    let format = match arguments.format {
        GrepFormat::Text => Format::Text,
        GrepFormat::Json => Format::Json,
        GrepFormat::Mosquitto => {
            // As `mosquitto_sub -v` writes it: every byte of the payload as it is.
            out.write_all(&[&hit.message.topic[..], b" ", &hit.message.payload, b"\n"].concat())?;
            return Ok(());
        }
    };
    let style = Style { format, payload: Some(arguments.payload_as) };
    writeln!(out, "{}", record_line::message(hit.place, &hit.message, &[], style))?;
    Ok(())
}

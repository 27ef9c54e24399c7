//! From an object file to programs in the kernel, with the maps that are there or are made.

use std::path::Path;

use aya::{
    Ebpf, EbpfLoader,
    programs::{ProgramFd, Xdp},
};
use lb_common::{hash::Keys, verdict::MayBe};

use super::{
    Error, Options, PROGRAM, REPLIES_A_SECOND, client_routes, flows, fullnat,
    maps::{self, FlowRoom, Maps},
    run,
};
use crate::plan::Capacity;

/// Loads the program with the maps pinned in a directory; those that aren't there are made.
pub(super) fn load(
    options: &Options,
    tables: Option<&Path>,
    capacity: Capacity,
    flows: FlowRoom,
) -> Result<(Program, Maps), Error> {
    let mut loader = EbpfLoader::new();
    for (name, len) in maps::pinned(capacity, flows) {
        loader.map_max_entries(name, len);
        if let Some(tables) = tables {
            loader.map_pin_path(name, tables.join(name));
        }
    }
    let trace = u32::from(options.trace);
    let keys = Keys::from_seed(options.hash_seed);
    loader.override_global("HASH_KEYS", &keys.0, true);
    loader.override_global("TRACE", &trace, true);
    let made_up_ways = u32::from(options.made_up_ways);
    loader.override_global("MADE_UP_WAYS", &made_up_ways, true);
    let budget = match options.flow_budget {
        Some(budget) => {
            flows::Budget { opening: budget, others: budget, ..flows::Budget::of(flows.moving)? }
        }
        None => flows::Budget::of(flows.moving)?,
    };
    // The same input shall give the same output.
    let cpus = if options.made_up_ways { 0 } else { fullnat::cpus()? };
    let routes_hold = client_routes::hold_ticks()?;
    loader.override_global("ROUTES_HOLD", &routes_hold, true);
    loader.override_global("CPUS", &cpus, true);
    loader.override_global("OPENING_BUDGET", &budget.opening, true);
    loader.override_global("OTHERS_BUDGET", &budget.others, true);
    loader.override_global("AGAIN_BUDGET", &budget.again, true);
    let replies = if options.made_up_ways { u32::MAX } else { REPLIES_A_SECOND };
    loader.override_global("REPLY_BUDGET", &replies, true);
    let object = loader.load(&options.object).map_err(Error::load)?;

    let mut program = Program::load(object, PROGRAM)?;
    // The kernel takes a tenth of a second for some of them, and a cold start forwards nothing.
    let used: Vec<_> = MayBe::ALL.into_iter().filter(|&(it, _)| flows.uses(it)).collect();
    let names = used.iter().map(|&(_, name)| name);
    for name in names.chain([run::WAY_PROGRAM, client_routes::HOLD_PROGRAM]) {
        load_program(&mut program.object, name)?;
    }
    let mut maps = Maps::take(&mut program.object, capacity)?;
    // Of maps that are pinned, a program in force takes them at once: they fit it.
    for (may_be, name) in used {
        let found = program.other(name)?;
        let failed = |error| Error::library(format!("use the XDP program {name}"), error);
        maps.programs
            .set(may_be as u32, found.fd().map_err(failed)?, 0)
            .map_err(|error| Error::library("fill the map programs", error))?;
    }
    Ok((program, maps))
}

/// A loaded program, in the object that owns it.
pub(super) struct Program {
    pub(super) object: Ebpf,
    name: &'static str,
}

impl Program {
    /// Loads the program of that name. The object's maps can be taken after it: until then the
    /// program knows them by their descriptors.
    pub(super) fn load(object: Ebpf, name: &'static str) -> Result<Self, Error> {
        let mut program = Self { object, name };
        load_program(&mut program.object, name)?;
        Ok(program)
    }

    pub(super) fn xdp(&self) -> Result<&Xdp, Error> {
        self.other(self.name)
    }

    /// A loaded program of the same object.
    pub(super) fn other(&self, name: &str) -> Result<&Xdp, Error> {
        let xdp = self.object.program(name).and_then(|program| program.try_into().ok());
        xdp.ok_or_else(|| no_program(name))
    }

    pub(super) fn fd(&self) -> Result<&ProgramFd, Error> {
        self.xdp()?.fd().map_err(|error| Error::library("use the XDP program", error))
    }
}

fn load_program(object: &mut Ebpf, name: &str) -> Result<(), Error> {
    let xdp = object.program_mut(name).and_then(|program| program.try_into().ok());
    let xdp: &mut Xdp = xdp.ok_or_else(|| no_program(name))?;
    xdp.load().map_err(Error::verify)
}

fn no_program(name: &str) -> Error {
    Error::Object { what: format!("XDP program {name}") }
}

//! The benchmark's programs: a driver that hands packet after packet to a program under test.
//!
//! What a packet costs is what the driver takes with the program under test, less what it takes
//! with one that returns at once.

mod classic;

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, Map, MapData, MapError, ProgramArray},
    programs::{ProgramFd, TestRun as _, TestRunOptions, Xdp},
};
use lb_common::layout::{BENCH_FRAME_LEN, BenchPlan};

use super::{
    Action, DataPlane, Error,
    maps::Value,
    run::{self, GROWTH},
    sys,
};
use crate::{objects, plan::Actual};

pub(crate) use classic::CONNECTIONS;

/// A program to drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UnderTest {
    /// The real one, with real tables.
    Balancer,
    /// Returns at once: what is left is the driver.
    Empty,
    /// The least that an encapsulation can cost.
    Least,
    /// A connection table for every packet.
    Classic,
}

impl UnderTest {
    /// Its name in the benchmark's object, in JSON and in the table.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Balancer => super::PROGRAM,
            Self::Empty => "empty",
            Self::Least => "least",
            Self::Classic => "classic",
        }
    }
}

/// What a run of the driver gave.
#[derive(Clone, Debug)]
pub(crate) struct Driven {
    /// Driver and program, in ns of CPU time for each packet.
    pub(crate) ns: f64,
    /// The last packet's verdict.
    pub(crate) action: Action,
    /// The last packet as the program left it.
    #[cfg(test)]
    pub(crate) frame: Vec<u8>,
}

/// The loaded programs with their tables.
pub(crate) struct Bench {
    object: Ebpf,
    plane: DataPlane,
    under_test: ProgramArray<MapData>,
    plan: Array<MapData, Value<BenchPlan>>,
    /// The interface that packets seem to come in by.
    ifindex: u32,
    /// The CPU that everything is measured on.
    cpu: usize,
    /// Packets driven so far, so that no flow that shall be new comes twice.
    driven: u32,
}

impl Bench {
    /// Loads the benchmark's programs beside a balancer, and gives the reference with a connection
    /// table the services, rings and backends that the balancer has: `actual`. Packets will seem to
    /// come in by the interface `ifindex`, which must be up.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(crate) fn open(plane: DataPlane, actual: &Actual, ifindex: u32) -> Result<Self, Error> {
        let cpu = sys::stay_on_one_cpu()
            .map_err(|error| Error::kernel("keep the measurement on one CPU", error))?;
        let mut loader = EbpfLoader::new();
        classic::size(&mut loader, plane.capacity())?;
        let mut object = loader.load(objects::BENCH).map_err(Error::load)?;
        for program in ["drive", "empty", "least", "classic"] {
            let name = || Error::Object { what: format!("XDP program {program}") };
            let loaded: &mut Xdp =
                object.program_mut(program).ok_or_else(name)?.try_into().map_err(|_| name())?;
            loaded.load().map_err(Error::verify)?;
        }
        classic::fill(&mut object, actual, cpu)?;
        let under_test = take(&mut object, "under_test")?;
        let plan = take(&mut object, "plan")?;
        Ok(Self { object, plane, under_test, plan, ifindex, cpu, driven: 0 })
    }

    /// Puts another balancer in the place of the one that is under test.
    pub(crate) fn replace(&mut self, plane: DataPlane) {
        self.plane = plane;
    }

    /// Runs so many packets of a plan through a program, on the CPU that this is called on.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(crate) fn drive(
        &mut self,
        program: UnderTest,
        plan: &BenchPlan,
        packets: u32,
    ) -> Result<Driven, Error> {
        let doing = || format!("drive {packets} packets through the program {}", program.name());
        let fd = match program {
            UnderTest::Balancer => self.plane.program.fd()?,
            other => program_fd(xdp(&self.object, other.name())?)?,
        };
        self.under_test.set(0, fd, 0).map_err(|error| Error::library(doing(), error))?;
        let value = Value(BenchPlan { counter: self.driven, ..*plan });
        self.plan.set(0, value, 0).map_err(|error| Error::library(doing(), error))?;
        self.driven = self.driven.wrapping_add(packets);

        let mut frame = vec![0; BENCH_FRAME_LEN + GROWTH];
        let context = run::context(BENCH_FRAME_LEN, self.ifindex);
        let mut options = TestRunOptions::new();
        options.data_in = Some(&plan.frame);
        options.ctx_in = Some(&context);
        options.data_out = Some(&mut frame);
        options.repeat = packets;
        let driver = xdp(&self.object, "drive")?;
        // The kernel's own figure is whole ns per packet, rounded down.
        let before =
            sys::thread_time_ns().map_err(|error| Error::kernel("read the clock", error))?;
        let result = driver.test_run(options).map_err(|error| Error::library(doing(), error))?;
        let after =
            sys::thread_time_ns().map_err(|error| Error::kernel("read the clock", error))?;
        frame.truncate(result.data_size_out as usize);
        Ok(Driven {
            ns: (after - before) as f64 / f64::from(packets),
            action: run::action(result.return_value),
            #[cfg(test)]
            frame,
        })
    }

    /// The CPU that everything is measured on.
    pub(crate) fn cpu(&self) -> usize {
        self.cpu
    }

    /// Packets that the balancer has sent since it was loaded, to backends and to clients.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(crate) fn sent(&self) -> Result<u64, Error> {
        let backends = self.plane.counters()?.backends;
        Ok(backends.values().map(|backend| backend.packets + backend.answers).sum())
    }

    /// Whether the kernel made machine code of the balancer's program.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(crate) fn is_jited(&self) -> Result<bool, Error> {
        let info = self.plane.program.xdp()?.info();
        let info = info.map_err(|error| Error::library("describe the XDP program", error))?;
        Ok(info.size_jitted() > 0)
    }
}

fn xdp<'o>(object: &'o Ebpf, name: &str) -> Result<&'o Xdp, Error> {
    let missing = || Error::Object { what: format!("XDP program {name}") };
    object.program(name).ok_or_else(missing)?.try_into().map_err(|_| missing())
}

fn program_fd(program: &Xdp) -> Result<&ProgramFd, Error> {
    program.fd().map_err(|error| Error::library("use an XDP program", error))
}

fn take<M>(object: &mut Ebpf, name: &'static str) -> Result<M, Error>
where
    M: TryFrom<Map, Error = MapError>,
{
    let missing = || Error::Object { what: format!("map {name} of the kind that it should be") };
    object.take_map(name).ok_or_else(missing)?.try_into().map_err(|_| missing())
}

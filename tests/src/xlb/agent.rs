//! A running agent.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::{Api, Output, Pins, Program, Settings};
use crate::netns::Namespace;
use crate::process::Process;
use crate::scratch;
use crate::wait;

/// How long the agent may take until it answers, and a change until it shows.
const READY: Duration = Duration::from_secs(20);

/// `xlb run` in a namespace, with files, socket and pins of its own. Dropping it ends the program
/// and removes what it pinned.
#[derive(Debug)]
pub struct Agent<'lab> {
    namespace: &'lab Namespace,
    program: Program,
    // Before the pins: the program ends first.
    process: Option<Process>,
    files: TempDir,
    pins: Pins,
}

impl<'lab> Agent<'lab> {
    /// Starts the agent and waits until `xlb status` answers.
    ///
    /// # Errors
    /// `xlb` isn't built, or ends, or doesn't answer within 20 s: with what it printed.
    pub fn start(namespace: &'lab Namespace, settings: &Settings) -> Result<Self> {
        let mut agent = Self::prepare(namespace, settings)?;
        agent.launch(&[])?;
        Ok(agent)
    }

    /// Makes the files that an agent needs, without starting it.
    ///
    /// # Errors
    /// `xlb` isn't built, or a file can't be written.
    pub fn prepare(namespace: &'lab Namespace, settings: &Settings) -> Result<Self> {
        let agent = Self {
            namespace,
            program: Program::find()?,
            process: None,
            files: scratch::directory()?,
            pins: Pins::new()?,
        };
        agent.write_config(settings)?;
        Ok(agent)
    }

    /// Starts the program, with further arguments of `xlb run`, and waits until it answers.
    ///
    /// # Errors
    /// It runs already, ends, or doesn't answer within 20 s.
    pub fn launch(&mut self, arguments: &[&str]) -> Result<()> {
        self.spawn(arguments)?;
        wait::until("an answer of the agent", READY, || {
            if let Some(process) = &mut self.process
                && let Err(error) = process.alive()
            {
                // No use to go on waiting: the answer is that it is gone.
                return Ok(Err(error));
            }
            self.status().map(Ok)
        })??;
        Ok(())
    }

    /// Starts the program without waiting for an answer.
    ///
    /// # Errors
    /// It runs already, or can't be started.
    pub fn spawn(&mut self, arguments: &[&str]) -> Result<()> {
        ensure!(self.process.is_none(), "the agent runs already");
        let mut command = self.namespace.command(self.program.path());
        command.arg("run").arg("--config").arg(self.config_path()).args(arguments);
        self.process = Some(Process::start("xlb run", &mut command)?);
        Ok(())
    }

    /// Replaces the config file, in one step, with settings that live in this agent's places.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn write_config(&self, settings: &Settings) -> Result<()> {
        let mut settings = settings.clone();
        settings.pin_path = Some(self.pins.path().to_owned());
        settings.state_file = Some(self.state_file());
        let api = settings.api.take();
        let metrics = api.as_ref().and_then(|api| api.metrics);
        let register = api.and_then(|api| api.register);
        settings.api = Some(Api { socket: self.socket(), metrics, register });
        self.write_config_text(&settings.render()?)
    }

    /// Replaces the config file, in one step, with any text.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn write_config_text(&self, text: &str) -> Result<()> {
        let new = self.files.path().join("xlb.toml.new");
        fs::write(&new, text).with_context(|| format!("write {}", new.display()))?;
        fs::rename(&new, self.config_path()).context("replace the config file")
    }

    /// The config file.
    pub fn config_path(&self) -> PathBuf {
        self.files.path().join("xlb.toml")
    }

    /// Where it keeps live changes.
    pub fn state_file(&self) -> PathBuf {
        self.files.path().join("state.json")
    }

    /// The directory where it pins.
    pub fn pin_path(&self) -> &Path {
        self.pins.path()
    }

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.files.path().join("xlb.sock")
    }

    /// Calls a verb that talks to the agent, with `--json`.
    ///
    /// # Errors
    /// The program can't be started; how the verb ends is the caller's to judge.
    pub fn try_call(&self, arguments: &[&str]) -> Result<Output> {
        let socket = self.socket();
        let socket = socket.to_str().context("the socket's path isn't text")?;
        let arguments = [arguments, &["--json", "--socket", socket]].concat();
        self.program.run(&arguments)
    }

    /// Calls a verb that must end with 0, and hands back the JSON that it printed.
    ///
    /// # Errors
    /// It ends otherwise, or prints no JSON.
    pub fn call(&self, arguments: &[&str]) -> Result<Value> {
        self.try_call(arguments)?.expect(0)?.json()
    }

    /// What `xlb status` says.
    ///
    /// # Errors
    /// The agent doesn't answer.
    pub fn status(&self) -> Result<Value> {
        self.call(&["status"])
    }

    /// A backend as `xlb backend list SERVICE` tells it.
    ///
    /// # Errors
    /// It isn't there.
    pub fn backend(&self, service: &str, address: &str) -> Result<Value> {
        let list = self.call(&["backend", "list", service])?;
        find(&list, address).cloned().with_context(|| format!("no backend {address} in {list}"))
    }

    /// Waits until a backend is (not) listed.
    ///
    /// # Errors
    /// It isn't so after 20 s.
    pub fn wait_listed(&self, service: &str, address: &str, listed: bool) -> Result<()> {
        let what = format!("backend {address} of {service} listed: {listed}");
        wait::until(&what, READY, || {
            let list = self.call(&["backend", "list", service])?;
            ensure!(find(&list, address).is_some() == listed, "the list is {list}");
            Ok(())
        })
    }

    /// Sends the program a signal.
    ///
    /// # Errors
    /// It doesn't run.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.running()?.signal(signal)
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Errors
    /// It doesn't run, or doesn't end within 5 s.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        let status = self.running()?.stop()?;
        self.process = None;
        Ok(status)
    }

    /// SIGKILL: what is pinned stays as it is.
    ///
    /// # Errors
    /// It doesn't run.
    pub fn kill(&mut self) -> Result<()> {
        self.running()?.kill()?;
        self.process = None;
        Ok(())
    }

    /// The running program.
    ///
    /// # Errors
    /// It doesn't run.
    pub fn running(&mut self) -> Result<&mut Process> {
        let process = self.process.as_mut().context("the agent doesn't run")?;
        process.alive()?;
        Ok(process)
    }

    /// Waits for an end that the program finds by itself, and hands back status and words.
    ///
    /// # Errors
    /// It goes on for 20 s.
    pub fn ended(&mut self) -> Result<(ExitStatus, String)> {
        let process = self.process.as_mut().context("the agent doesn't run")?;
        let status = process.wait(READY)?;
        let log = process.log();
        self.process = None;
        Ok((status, log))
    }
}

/// The first object anywhere in `value` whose `address` is that.
fn find<'json>(value: &'json Value, address: &str) -> Option<&'json Value> {
    match value {
        Value::Object(fields) if fields.get("address").is_some_and(|found| found == address) => {
            Some(value)
        }
        Value::Object(fields) => fields.values().find_map(|inner| find(inner, address)),
        Value::Array(items) => items.iter().find_map(|inner| find(inner, address)),
        _ => None,
    }
}

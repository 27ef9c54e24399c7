//! Real programs that serve, on one host: nginx, gRPC's server, dnsmasq.

use std::cell::RefCell;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;
use xlb_tests::netns::{self, Namespace};
use xlb_tests::process::Process;
use xlb_tests::scratch;

pub const HTTP: u16 = 80;
pub const HTTPS: u16 = 443;
pub const GRPC: u16 = 50051;
pub const DNS: u16 = 53;

/// The name that the certificate is for.
pub const NAME: &str = "shop.example";

/// The address that dnsmasq tells for every name, and the one while it is broken.
pub const TOLD: [&str; 2] = ["192.0.2.80", "192.0.2.81"];

/// All of them.
pub struct Servers<'lab> {
    namespace: &'lab Namespace,
    files: TempDir,
    running: RefCell<Vec<Process>>,
}

impl<'lab> Servers<'lab> {
    /// Starts them.
    pub fn start(namespace: &'lab Namespace) -> Result<Self> {
        let files = scratch::directory()?;
        let servers = Self { namespace, files, running: RefCell::default() };
        servers.write_certificates()?;
        fs::write(servers.path("healthz"), "well ".repeat(20_000))?;
        fs::write(servers.path("nginx.conf"), servers.nginx())?;
        fs::write(servers.path("health.py"), include_str!("health.py"))?;
        servers.restart()?;
        Ok(servers)
    }

    /// The authority that signed the certificate.
    pub fn authority(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// From now on each of them answers wrongly, or well again.
    pub fn set_broken(&self, broken: bool) -> Result<()> {
        self.mark("broken", broken)?;
        // dnsmasq has no switch.
        self.restart()
    }

    /// From now on nginx's bodies drip.
    pub fn set_slow(&self, slow: bool) -> Result<()> {
        self.mark("slow", slow)
    }

    /// Kills them, and starts them anew.
    pub fn restart(&self) -> Result<()> {
        self.kill()?;
        let files = self.files.path();
        let mut nginx = self.namespace.command("nginx");
        nginx.arg("-c").arg(self.path("nginx.conf")).arg("-p").arg(files);
        let mut grpc = self.namespace.command("/usr/bin/python3");
        grpc.arg(self.path("health.py")).arg(files);
        let mut dnsmasq = self.namespace.command("dnsmasq");
        let told = TOLD[usize::from(self.path("broken").exists())];
        dnsmasq.args([
            "--keep-in-foreground",
            "--no-resolv",
            "--no-hosts",
            "--conf-file=/dev/null",
        ]);
        dnsmasq.args(["--user=root", "--pid-file=", &format!("--address=/#/{told}")]);
        let mut running = self.running.borrow_mut();
        for (name, command) in
            [("nginx", &mut nginx), ("the gRPC server", &mut grpc), ("dnsmasq", &mut dnsmasq)]
        {
            running.push(Process::start(name, command)?);
        }
        Ok(())
    }

    /// SIGKILL for all.
    pub fn kill(&self) -> Result<()> {
        self.running.borrow_mut().drain(..).try_for_each(|mut process| process.kill())
    }

    /// A signal for all.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.running.borrow_mut().iter_mut().try_for_each(|process| process.signal(signal))
    }

    /// What the firewall of their host does with packets to them: such as `drop`, each protocol
    /// its own; `None` lets them in.
    pub fn firewall(&self, verdicts: Option<[&str; 2]>) -> Result<()> {
        let mut rules = String::from("table inet test\ndelete table inet test\n");
        if let Some([tcp, udp]) = verdicts {
            rules += &format!(
                "table inet test {{ chain input {{ type filter hook input priority 0;\n\
                 tcp dport {{ {HTTP}, {HTTPS}, {GRPC} }} {tcp}\nudp dport {DNS} {udp}\n}}\n}}\n"
            );
        }
        netns::run(self.namespace.command("nft").args(["-f", "-"]), &rules).map(drop)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    fn mark(&self, name: &str, there: bool) -> Result<()> {
        let path = self.path(name);
        match there {
            true => fs::write(&path, "").with_context(|| format!("write {}", path.display())),
            false => fs::remove_file(&path).with_context(|| format!("remove {}", path.display())),
        }
    }

    fn write_certificates(&self) -> Result<()> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "the test's authority");
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let key = KeyPair::generate()?;
        let certificate =
            CertificateParams::new(vec![NAME.to_owned()])?.signed_by(&key, &authority)?;
        fs::write(self.authority(), authority.pem())?;
        fs::write(self.path("server.pem"), certificate.pem())?;
        fs::write(self.path("server.key"), key.serialize_pem())?;
        Ok(())
    }

    fn nginx(&self) -> String {
        let files = self.files.path().display();
        format!(
            "daemon off; user root; worker_processes 1; pid {files}/nginx.pid; error_log stderr;
            events {{ worker_connections 16384; }}
            http {{
                access_log off;
                client_body_temp_path {files}/body; proxy_temp_path {files}/proxy;
                fastcgi_temp_path {files}/fastcgi; uwsgi_temp_path {files}/uwsgi;
                scgi_temp_path {files}/scgi;
                server {{
                    listen {HTTP} backlog=8192; listen {HTTPS} ssl http2;
                    ssl_certificate {files}/server.pem; ssl_certificate_key {files}/server.key;
                    root {files};
                    location = /ok {{ return 204; }}
                    location = /healthz {{
                        if (-f {files}/broken) {{ return 500; }}
                        if (-f {files}/slow) {{ set $limit_rate 100; }}
                        add_header X-Served-By nginx;
                    }}
                }}
            }}"
        )
    }
}

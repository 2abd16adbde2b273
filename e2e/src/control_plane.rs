//! A real Kubernetes API server and its etcd on loopback, for tests that need an API and no nodes.
//!
//! ```no_run
//! # use agentsight_e2e::control_plane::ControlPlane;
//! let Some(control_plane) = ControlPlane::or_skip() else { return };
//! control_plane.kubectl(&["apply", "-f", "crds/"]);
//! let kubeconfig = control_plane.kubeconfig(); // of a cluster administrator, for a client of one's own
//! ```

use crate::cluster_tools::{ClusterTools, Need};
use crate::collector::free_port;
use crate::daemons::{Daemons, birth};
use crate::process::{PATIENCE, run};
use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde_json::json;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A running etcd and API server; both end with it.
pub struct ControlPlane {
    tools: ClusterTools,
    folder: PathBuf,
    daemons: Daemons,
    settings: ApiServer,
}

impl ControlPlane {
    /// Starts one on free ports, and waits until it is ready; none where it cannot be built, which is said.
    ///
    /// # Panics
    /// It does not start.
    pub fn or_skip() -> Option<Self> {
        let tools = ClusterTools::or_skip(Need::ControlPlane)?;
        remove_leftovers();
        let folder = root().join(format!("{}-{}", std::process::id(), free_port()));
        let daemons = Daemons::in_folder(&folder);
        fs::create_dir_all(&folder).expect("a temporary folder");
        let born = birth(std::process::id()).unwrap_or_default();
        fs::write(folder.join("owner"), format!("{} {born}", std::process::id())).expect("a file of ours");
        let settings = ApiServer {
            port: free_port(),
            etcd_ports: [free_port(), free_port()],
            address: "127.0.0.1".to_owned(),
            // Nobody makes the service accounts that pods are refused without.
            arguments: vec!["--disable-admission-plugins=ServiceAccount".to_owned()],
        };
        let plane = Self { tools, folder, daemons, settings };
        write_credentials(&plane.folder, &plane.settings).expect("files of ours");
        let etcd = plane.settings.etcd(&plane.tools, &plane.folder);
        plane.daemons.start("etcd", &mut { etcd });
        plane.start_api_server();
        Some(plane)
    }

    /// Credentials of a cluster administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("admin.kubeconfig")
    }

    /// Where the API server listens: `https://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        self.settings.url()
    }

    /// The etcd and API server processes' ids, for those who measure them.
    pub fn process_ids(&self) -> [Option<u32>; 2] {
        ["etcd", "kube-apiserver"].map(|name| self.daemons.id(name))
    }

    /// A kubectl, helm or other program of the control plane's, as its administrator.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.tools.program(program));
        command.env("KUBECONFIG", self.kubeconfig()).env("HOME", &self.folder);
        command
    }

    /// Runs kubectl as administrator and returns what it wrote.
    ///
    /// # Panics
    /// It failed.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        succeeded(&run(self.command("kubectl").args(arguments)), arguments)
    }

    /// `kubectl apply` of an object or list, which may be refused.
    pub fn apply(&self, manifest: &str) -> Output {
        run_with_input(self.command("kubectl").args(["apply", "-f", "-"]), manifest)
    }

    /// Ends the API server; etcd keeps what it knows.
    pub fn stop_api_server(&self) {
        self.daemons.stop("kube-apiserver");
    }

    /// Starts it, where it was before, and waits until it is ready.
    ///
    /// # Panics
    /// It does not become ready.
    pub fn start_api_server(&self) {
        let mut command = self.settings.api_server(&self.tools, &self.folder);
        self.daemons.start("kube-apiserver", &mut command);
        wait_until_ready(&self.daemons, || self.command("kubectl"));
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.daemons.last_words("kube-apiserver"));
        }
        remove(&self.folder);
    }
}

/// What an API server is started with.
#[derive(Clone, Debug)]
pub(crate) struct ApiServer {
    /// Where it listens.
    pub(crate) port: u16,
    /// Where etcd listens, for clients and for peers.
    pub(crate) etcd_ports: [u16; 2],
    /// The address under which nodes and services reach it.
    pub(crate) address: String,
    /// Beyond the usual.
    pub(crate) arguments: Vec<String>,
}

/// The first address of services, which is the API server's own.
const SERVICE_ADDRESS: &str = "10.96.0.1";

impl ApiServer {
    pub(crate) fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    pub(crate) fn etcd(&self, tools: &ClusterTools, folder: &Path) -> Command {
        let [client, peer] = self.etcd_ports.map(|port| format!("http://127.0.0.1:{port}"));
        let mut command = Command::new(tools.program("etcd"));
        command
            .arg("--data-dir")
            .arg(folder.join("etcd"))
            // What is lost with the machine was a test's.
            .arg("--unsafe-no-fsync")
            .args(["--log-level", "warn"])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .env_clear();
        command
    }

    pub(crate) fn api_server(&self, tools: &ClusterTools, folder: &Path) -> Command {
        let file = |name: &str| folder.join(name).display().to_string();
        let mut command = Command::new(tools.program("kube-apiserver"));
        command
            .arg(format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_ports[0]))
            .arg(format!("--secure-port={}", self.port))
            .arg(format!(
                "--bind-address={}",
                if self.address == "127.0.0.1" { "127.0.0.1" } else { "0.0.0.0" }
            ))
            .arg(format!("--advertise-address={}", self.address))
            .arg(format!("--tls-cert-file={}", file("server.crt")))
            .arg(format!("--tls-private-key-file={}", file("server.key")))
            .arg(format!("--client-ca-file={}", file("ca.crt")))
            .arg(format!("--token-auth-file={}", file("tokens.csv")))
            .arg(format!("--service-account-key-file={}", file("service-accounts.pub")))
            .arg(format!("--service-account-signing-key-file={}", file("service-accounts.key")))
            .arg("--service-account-issuer=https://kubernetes.default.svc")
            .arg("--authorization-mode=Node,RBAC")
            .arg("--enable-admission-plugins=NodeRestriction")
            .arg("--service-cluster-ip-range=10.96.0.0/16")
            .arg("--allow-privileged=true")
            .arg("--profiling=false")
            .arg(format!("--kubelet-client-certificate={}", file("client.crt")))
            .arg(format!("--kubelet-client-key={}", file("client.key")))
            .arg("--kubelet-preferred-address-types=InternalIP")
            .args(&self.arguments)
            .env_clear();
        command
    }
}

/// Users that the API server knows besides service accounts: user name and groups. Their tokens are made anew.
const USERS: [(&str, &str, &str); 6] = [
    ("admin", "admin", "system:masters"),
    ("controller-manager", "system:kube-controller-manager", ""),
    ("scheduler", "system:kube-scheduler", ""),
    ("node", "system:node:node-1", "system:nodes"),
    ("proxy", "system:kube-proxy", ""),
    ("dns", "dns", ""),
];

/// Writes certificates, tokens, and a `NAME.kubeconfig` for each of [`USERS`].
pub(crate) fn write_credentials(folder: &Path, settings: &ApiServer) -> anyhow::Result<()> {
    let write = |name: &str, text: &str| {
        fs::write(folder.join(name), text).with_context(|| format!("{}/{name}", folder.display()))
    };
    let mut ca = CertificateParams::default();
    ca.distinguished_name.push(DnType::CommonName, "AgentSight test cluster");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_key = KeyPair::generate()?;
    let authority = ca.self_signed(&ca_key)?;
    write("ca.crt", &authority.pem())?;
    let issuer = Issuer::from_params(&ca, &ca_key);

    let names = ["localhost", "127.0.0.1", SERVICE_ADDRESS, &settings.address, "kubernetes.default.svc"];
    let mut server = CertificateParams::new(names.map(str::to_owned))?;
    server.distinguished_name.push(DnType::CommonName, "kube-apiserver");
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    server.use_authority_key_identifier_extension = true;
    // As which the API server comes to kubelets.
    let mut client = CertificateParams::default();
    client.distinguished_name.push(DnType::OrganizationName, "system:masters");
    client.distinguished_name.push(DnType::CommonName, "kube-apiserver");
    client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    client.use_authority_key_identifier_extension = true;
    for (name, certificate) in [("server", server), ("client", client)] {
        let key = KeyPair::generate()?;
        write(&format!("{name}.crt"), &certificate.signed_by(&key, &issuer)?.pem())?;
        write(&format!("{name}.key"), &key.serialize_pem())?;
    }
    let accounts = KeyPair::generate()?;
    write("service-accounts.key", &accounts.serialize_pem())?;
    write("service-accounts.pub", &accounts.public_key_pem())?;

    let mut tokens = String::new();
    for (uid, (name, user, group)) in USERS.iter().enumerate() {
        let token: String =
            KeyPair::generate()?.public_key_raw()[1..33].iter().map(|b| format!("{b:02x}")).collect();
        tokens.push_str(&format!("{token},{user},{uid},\"{group}\"\n"));
        let kubeconfig = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": name,
            "contexts": [{"name": name, "context": {"cluster": "agentsight", "user": name}}],
            "clusters": [{"name": "agentsight", "cluster": {
                "server": settings.url(), "certificate-authority": folder.join("ca.crt"),
            }}],
            "users": [{"name": name, "user": {"token": token}}],
        });
        write(&format!("{name}.kubeconfig"), &kubeconfig.to_string())?;
    }
    write("tokens.csv", &tokens)
}

/// Asks until the API server says that it is ready.
pub(crate) fn wait_until_ready(daemons: &Daemons, kubectl: impl Fn() -> Command) {
    let deadline = Instant::now() + PATIENCE;
    while !run(kubectl().args(["get", "--raw=/readyz"])).status.success() {
        let words = || daemons.last_words("kube-apiserver");
        assert!(daemons.is_running("kube-apiserver"), "the API server has ended\n{}", words());
        assert!(Instant::now() < deadline, "the API server does not become ready\n{}", words());
        // It tells nobody when it is.
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// What a command wrote.
///
/// # Panics
/// It failed.
pub fn succeeded(output: &Output, what: &[&str]) -> String {
    assert!(
        output.status.success(),
        "{} ended with {}\n{}{}",
        what.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a command to its end with a text on its standard input.
///
/// # Panics
/// It cannot be started.
pub fn run_with_input(command: &mut Command, input: &str) -> Output {
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(input.as_bytes()).expect("a temporary file");
    std::io::Seek::rewind(&mut file).expect("a temporary file");
    run(command.stdin(Stdio::from(file)))
}

fn root() -> PathBuf {
    std::env::temp_dir().join("agentsight-control-planes")
}

/// Ends what tests left that were killed.
fn remove_leftovers() {
    for entry in fs::read_dir(root()).into_iter().flatten().flatten() {
        let Ok(owner) = fs::read_to_string(entry.path().join("owner")) else { continue };
        let owned = owner.split_once(' ').is_some_and(|(id, born)| {
            id.parse().ok().and_then(birth).is_some_and(|is| is.to_string() == born)
        });
        if !owned {
            remove(&entry.path());
        }
    }
}

fn remove(folder: &Path) {
    Daemons::in_folder(folder).kill_all();
    // Another test may be at the same leftovers.
    drop(fs::remove_dir_all(folder));
}

//! A real Kubernetes of one node on this machine: control plane, kubelet, containerd, service network and DNS.
//!
//! It lives in a network namespace of its own, under a control group of its own and in a folder of its own, all
//! named by the cluster's name: several can be there at once, nothing listens outside, and nothing is left of one
//! that was taken down.

use crate::cluster_tools::{ClusterTools, Need};
use crate::control_plane::{ApiServer, run_with_input, succeeded, wait_until_ready, write_credentials};
use crate::daemons::{Daemons, birth};
use crate::process::{PATIENCE, run};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// The node's only address.
const NODE_ADDRESS: &str = "10.77.0.1";
/// Where cluster DNS answers.
const DNS_ADDRESS: &str = "10.96.0.10";
/// The image that holds a pod's namespaces; made by [`Cluster::up`].
const PAUSE: &str = "agentsight.dev/pause:e2e";

/// A cluster, which runs or not.
#[derive(Clone, Debug)]
pub struct Cluster {
    tools: ClusterTools,
    name: String,
    /// Of its network namespace and of its control group.
    namespace: String,
    folder: PathBuf,
    daemons: Daemons,
    settings: ApiServer,
}

impl Cluster {
    /// The cluster of that name; none where this machine cannot have one, which is said.
    ///
    /// # Panics
    /// The name is none that a network namespace can have.
    pub fn or_skip(name: &str) -> Option<Self> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        assert!((1..=20).contains(&name.len()) && name.chars().all(plain), "a cluster named {name:?}");
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: a cluster needs root");
            return None;
        }
        let tools = ClusterTools::or_skip(Need::Node)?;
        // Short: the path of a socket is at most 107 bytes long.
        let folder = PathBuf::from("/tmp/agentsight-clusters").join(name);
        Some(Self {
            tools,
            name: name.to_owned(),
            namespace: format!("agentsight-{name}"),
            daemons: Daemons::in_folder(&folder.join("log")),
            folder,
            settings: ApiServer {
                port: 6443,
                etcd_ports: [2379, 2380],
                address: NODE_ADDRESS.to_owned(),
                arguments: Vec::new(),
            },
        })
    }

    /// Brings it up and waits until its node is ready; takes down first what is left of an earlier one.
    ///
    /// # Panics
    /// It does not come up: with the last words of what did not.
    pub fn up(&self) {
        self.down();
        fs::create_dir_all(self.folder.join("manifests")).expect("a folder of ours");
        fs::create_dir_all(self.folder.join("cni")).expect("a folder of ours");
        write_credentials(&self.folder, &self.settings).expect("files of ours");
        self.make_network();
        self.make_cgroups();
        self.write_configurations();

        self.start("containerd", &["--config", &self.path("containerd.toml")]);
        self.daemons.start("etcd", &mut self.inside(&self.settings.etcd(&self.tools, &self.folder)));
        self.start_api_server();
        self.start(
            "kube-controller-manager",
            &[
                &format!("--kubeconfig={}", self.path("controller-manager.kubeconfig")),
                &format!("--service-account-private-key-file={}", self.path("service-accounts.key")),
                &format!("--root-ca-file={}", self.path("ca.crt")),
                "--use-service-account-credentials",
                "--leader-elect=false",
                "--bind-address=127.0.0.1",
                // Pods of a node that is away are not what is tested here.
                "--node-monitor-grace-period=10m",
            ],
        );
        self.start(
            "kube-scheduler",
            &[
                &format!("--kubeconfig={}", self.path("scheduler.kubeconfig")),
                "--leader-elect=false",
                "--bind-address=127.0.0.1",
            ],
        );
        self.make_pause_image();
        self.start(
            "kubelet",
            &[
                &format!("--config={}", self.path("kubelet.yaml")),
                &format!("--kubeconfig={}", self.path("node.kubeconfig")),
                &format!("--root-dir={}", self.path("kubelet")),
                &format!("--cert-dir={}", self.path("kubelet-pki")),
                &format!("--node-ip={NODE_ADDRESS}"),
                "--hostname-override=node-1",
            ],
        );
        self.start(
            "kube-proxy",
            &[
                &format!("--kubeconfig={}", self.path("proxy.kubeconfig")),
                "--hostname-override=node-1",
                "--proxy-mode=nftables",
                "--cluster-cidr=10.88.0.0/16",
                "--bind-address=127.0.0.1",
                // Its defaults are sysctls that a namespace may not set.
                "--conntrack-max-per-core=0",
                "--conntrack-tcp-timeout-established=0",
                "--conntrack-tcp-timeout-close-wait=0",
            ],
        );
        let applied = run_with_input(self.kubectl().args(["apply", "-f", "-"]), &cluster_dns());
        succeeded(&applied, &["kubectl apply of the cluster's DNS"]);
        self.start("coredns", &["-conf", &self.path("Corefile")]);
        self.wait_for_node();
        for name in ["kube-controller-manager", "kube-scheduler", "kube-proxy", "coredns"] {
            assert!(self.daemons.is_running(name), "{}", self.daemons.last_words(name));
        }
    }

    /// Takes it down; nothing of it is left. One that is not there is no error.
    pub fn down(&self) {
        let sockets = self.shim_sockets();
        // Those first who would start pods anew.
        self.daemons.kill_all();
        self.end_pods();
        unmount_below(&self.folder);
        if Path::new("/run/netns").join(&self.namespace).exists() {
            succeeded(&run(Command::new("ip").args(["netns", "del", &self.namespace])), &["ip netns del"]);
        }
        for hierarchy in cgroup_hierarchies() {
            remove_cgroups(&hierarchy.join(&self.namespace));
        }
        self.remove_what_has_fixed_places(&sockets);
        if self.folder.exists() {
            fs::remove_dir_all(&self.folder).unwrap_or_else(|e| panic!("{}: {e}", self.folder.display()));
        }
    }

    /// Credentials of a cluster administrator; of use only inside the cluster's network, see [`Self::command`].
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("admin.kubeconfig")
    }

    /// A program inside the cluster's network, as its administrator.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let program = program.as_ref();
        let built = self.tools.folder().join(program);
        let mut command = self.inside(&Command::new(if built.exists() { &built } else { program }));
        command.env("KUBECONFIG", self.kubeconfig());
        command
    }

    /// kubectl, as administrator.
    pub fn kubectl(&self) -> Command {
        self.command("kubectl")
    }

    /// Makes an image of an archive available to pods.
    ///
    /// # Panics
    /// It is none.
    pub fn import(&self, archive: &Path) {
        succeeded(&run(self.ctr().args(["images", "import"]).arg(archive)), &["ctr images import"]);
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The control group that all its pods are in, below the root of each hierarchy.
    pub fn cgroup(&self) -> &str {
        &self.namespace
    }

    /// Where the kubelet looks for static pods.
    pub fn static_pods(&self) -> PathBuf {
        self.folder.join("manifests")
    }

    /// Its long-running programs.
    pub fn daemons(&self) -> &Daemons {
        &self.daemons
    }

    /// Starts the API server, again after `daemons().stop("kube-apiserver")`, and waits until it is ready.
    ///
    /// # Panics
    /// It does not become ready.
    pub fn start_api_server(&self) {
        let command = self.settings.api_server(&self.tools, &self.folder);
        self.daemons.start("kube-apiserver", &mut self.inside(&command));
        wait_until_ready(&self.daemons, || self.kubectl());
    }

    fn start(&self, name: &str, arguments: &[&str]) {
        let mut command = Command::new(self.tools.program(name));
        command.args(arguments).env_clear();
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.tools.folder().display());
        self.daemons.start(name, self.inside(&command).env("PATH", path));
    }

    /// The same command in the cluster's network. `ip netns exec` would remount /sys, which hides the control groups.
    fn inside(&self, command: &Command) -> Command {
        let mut inside = Command::new("nsenter");
        inside
            .arg(format!("--net=/run/netns/{}", self.namespace))
            .arg("--")
            .arg(command.get_program())
            .args(command.get_args());
        inside
    }

    fn ctr(&self) -> Command {
        let mut command = Command::new(self.tools.program("ctr"));
        command.args(["--address", &self.path("containerd.sock"), "--namespace", "k8s.io"]);
        command
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    /// The node is one end of a pair of interfaces; the other end leads nowhere.
    fn make_network(&self) {
        let namespace = &self.namespace;
        let ip = |arguments: &str| {
            let words: Vec<_> = arguments.split(' ').collect();
            succeeded(&run(Command::new("ip").args(&words)), &["ip", arguments]);
        };
        ip(&format!("netns add {namespace}"));
        for step in [
            "link set lo up",
            "link add node0 type veth peer name out0",
            "link set out0 up",
            &format!("addr add {NODE_ADDRESS}/24 dev node0"),
            "link set node0 up",
            // A way out has to be there for packets to service addresses to be looked at.
            "route add default via 10.77.0.254 dev node0",
        ] {
            ip(&format!("-n {namespace} {step}"));
        }
        let forward = self.inside(Command::new("sysctl").args(["-qw", "net.ipv4.ip_forward=1"]));
        succeeded(&run(&mut { forward }), &["sysctl"]);
    }

    /// Two kubelets with one root would remove each other's pods.
    fn make_cgroups(&self) {
        for hierarchy in cgroup_hierarchies() {
            let group = hierarchy.join(&self.namespace);
            fs::create_dir_all(&group).unwrap_or_else(|e| panic!("{}: {e}", group.display()));
            // A new group of the first version has neither processors nor memory.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if let Ok(value) = fs::read_to_string(hierarchy.join(file)) {
                    // Of the second version only the root lacks them, and there nothing needs to be set.
                    drop(fs::write(group.join(file), value));
                }
            }
        }
    }

    fn write_configurations(&self) {
        let write = |name: &str, text: &str| fs::write(self.folder.join(name), text).expect("a file of ours");
        write("containerd.toml", &self.containerd_configuration());
        write("kubelet.yaml", &self.kubelet_configuration());
        let network = json!({
            "cniVersion": "1.0.0",
            "name": self.namespace,
            "plugins": [{
                "type": "bridge",
                "bridge": "pods0",
                "isGateway": true,
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "dataDir": self.folder.join("cni-addresses"),
                    "ranges": [[{"subnet": "10.88.0.0/16"}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            }],
        });
        write("cni/10-e2e.conflist", &network.to_string());
        let corefile = format!(
            ".:53 {{\n  errors\n  kubernetes cluster.local {{\n    kubeconfig {} dns\n  }}\n}}\n",
            self.path("dns.kubeconfig")
        );
        write("Corefile", &corefile);
    }

    fn containerd_configuration(&self) -> String {
        let folder = self.folder.display();
        // Everything that has a place of its own by default has one in our folder.
        format!(
            r#"version = 3
root = "{folder}/containerd"
state = "{folder}/containerd-state"
[grpc]
  address = "{folder}/containerd.sock"
[plugins.'io.containerd.nri.v1.nri']
  disable = true
[plugins.'io.containerd.internal.v1.opt']
  path = "{folder}/opt"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "{PAUSE}"
[plugins.'io.containerd.cri.v1.runtime']
  netns_mounts_under_state_dir = true
  # Inside a container or a virtual machine root may not lower a process's score, and no pod would start.
  restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  Root = "{folder}/runc"
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ["/usr/lib/cni", "/opt/cni/bin"]
  conf_dir = "{folder}/cni"
"#
        )
    }

    fn kubelet_configuration(&self) -> String {
        // JSON is YAML.
        json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": format!("unix://{}", self.path("containerd.sock")),
            "authentication": {
                "anonymous": {"enabled": false},
                "webhook": {"enabled": true},
                "x509": {"clientCAFile": self.path("ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": format!("/{}", self.namespace),
            "clusterDNS": [DNS_ADDRESS],
            "clusterDomain": "cluster.local",
            "containerLogMaxSize": "200Mi",
            "enforceNodeAllocatable": [],
            // The machine's disk and memory belong to others too; images that are gone cannot be had again.
            "evictionHard": {"memory.available": "50Mi", "nodefs.available": "100Mi", "imagefs.available": "100Mi"},
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "failCgroupV1": false,
            "failSwapOn": false,
            "maxPods": 250,
            "podLogsDir": self.path("pod-logs"),
            "resolvConf": "",
            "staticPodPath": self.static_pods(),
            // The default is 20 s.
            "fileCheckFrequency": "1s",
            "kubeAPIQPS": 200,
            "kubeAPIBurst": 400,
        })
        .to_string()
    }

    /// Two places cannot be chosen: that of the shims' sockets, and that of the pod network's results.
    fn remove_what_has_fixed_places(&self, sockets: &[PathBuf]) {
        let results = Path::new("/var/lib/cni/results");
        let ours = format!("{}-", self.namespace);
        for entry in fs::read_dir(results).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(&ours)) else { continue };
            let id = rest.trim_end_matches("-eth0");
            drop(fs::remove_file(results.join(format!("cni-loopback-{id}-lo"))));
            drop(fs::remove_file(entry.path()));
        }
        sockets.iter().for_each(|socket| drop(fs::remove_file(socket)));
        // Only those that are empty go: another cluster's, or the machine's own, stay.
        for folder in
            ["/var/lib/cni/results", "/var/lib/cni", "/run/containerd/s", "/run/containerd", "/run/netns"]
        {
            drop(fs::remove_dir(folder));
        }
    }

    /// Where the shims listen. The kernel lists sockets by network namespace: all are this cluster's.
    fn shim_sockets(&self) -> Vec<PathBuf> {
        let output = run(&mut self.inside(Command::new("cat").arg("/proc/self/net/unix")));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let paths = text.lines().filter_map(|line| line.split_whitespace().nth(7));
        paths.filter(|path| path.starts_with("/run/containerd/s/")).map(PathBuf::from).collect()
    }

    fn make_pause_image(&self) {
        let program = self.folder.join("pause");
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        let cc = run(Command::new("cc")
            .args(["-static", "-O2", "-Wall", "-Wextra", "-Werror", "-o"])
            .arg(&program)
            .arg(folder.join("images/pause.c")));
        succeeded(&cc, &["cc"]);
        let root = self.folder.join("pause-root");
        fs::create_dir_all(&root).expect("a folder of ours");
        fs::rename(program, root.join("pause")).expect("a file of ours");
        let archive = self.folder.join("pause.tar");
        let packed = run(Command::new("python3")
            .arg(folder.join("../scripts/image/pack.py"))
            .args(["--name", PAUSE, "--entrypoint", "/pause", "--out"])
            .arg(&archive)
            .arg(&root));
        succeeded(&packed, &["scripts/image/pack.py"]);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let output = run(self.ctr().args(["images", "import"]).arg(&archive));
            if output.status.success() {
                return;
            }
            let words = || self.daemons.last_words("containerd");
            let failed = !self.daemons.is_running("containerd") || Instant::now() > deadline;
            assert!(!failed, "{}\n{}", String::from_utf8_lossy(&output.stderr), words());
            // Its socket has no event for those who wait for it.
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn wait_for_node(&self) {
        let deadline = Instant::now() + PATIENCE;
        // It has to be there before it can be waited for; both are one condition here.
        loop {
            let wait = ["wait", "--for=condition=Ready", "node/node-1", "--timeout=60s"];
            let output = run(self.kubectl().args(wait));
            if output.status.success() {
                return;
            }
            let failed = !self.daemons.is_running("kubelet") || Instant::now() > deadline;
            let words = || self.daemons.last_words("kubelet");
            assert!(!failed, "{}\n{}", String::from_utf8_lossy(&output.stderr), words());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The ids of all processes of that name in its pods.
    pub fn processes(&self, name: &str) -> Vec<u32> {
        let named = |id: &u32| {
            fs::read_to_string(format!("/proc/{id}/comm")).is_ok_and(|comm| comm.trim_end() == name)
        };
        running().filter(|id| self.is_in_pod(*id)).filter(named).collect()
    }

    fn is_in_pod(&self, id: u32) -> bool {
        let group = format!(":/{}/", self.namespace);
        fs::read_to_string(format!("/proc/{id}/cgroup")).is_ok_and(|groups| groups.contains(&group))
    }

    /// Whether it is a runtime's process beside a pod: our socket is one of its arguments.
    fn is_shim(&self, id: u32) -> bool {
        let socket = self.path("containerd.sock");
        let arguments = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        let mut words = arguments.split(|byte| *byte == 0);
        words.next().is_some_and(|program| program.ends_with(b"containerd-shim-runc-v2"))
            && words.any(|word| word == socket.as_bytes())
    }

    /// Ends what the runtime has left running.
    fn end_pods(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left: Vec<_> = running().filter(|id| self.is_in_pod(*id) || self.is_shim(*id)).collect();
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "the processes {left:?} cannot be ended");
            for id in left.into_iter().filter_map(|id| Pid::from_raw(id.try_into().ok()?)) {
                // Fails only for one that has just ended.
                let _ = kill_process(id, Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The ids of all processes that have not ended.
fn running() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(|id| birth(*id).is_some())
}

/// The service in front of the name server, and what the name server may read.
fn cluster_dns() -> String {
    let ports = |with: &dyn Fn(&str, &str) -> serde_json::Value| [with("dns", "UDP"), with("dns-tcp", "TCP")];
    let port = |name: &str, protocol: &str| json!({"name": name, "port": 53, "protocol": protocol});
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "kube-dns", "namespace": "kube-system"},
            "spec": {"clusterIP": DNS_ADDRESS, "ports": ports(&port)},
        },
        {
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": "kube-dns-node", "namespace": "kube-system",
                "labels": {"kubernetes.io/service-name": "kube-dns"},
            },
            "addressType": "IPv4", "ports": ports(&port),
            "endpoints": [{"addresses": [NODE_ADDRESS], "conditions": {"ready": true}}],
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": "e2e-dns"},
            "rules": [
                {"apiGroups": [""], "resources": ["services", "namespaces", "pods"], "verbs": ["list", "watch"]},
                {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
            ],
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": "e2e-dns"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "e2e-dns"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "dns"}],
        },
    ]})
    .to_string()
}

/// The roots of all hierarchies: one, or one for each controller and perhaps one of the second version.
fn cgroup_hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mut roots: Vec<_> = mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (path, kind) = (fields.next()?, fields.next()?);
            (kind.starts_with("cgroup") && path.starts_with("/sys/fs/cgroup")).then(|| PathBuf::from(path))
        })
        .collect();
    roots.sort();
    roots.dedup();
    roots
}

/// Control groups are removed from the leaves on; their files go with them.
fn remove_cgroups(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroups(&entry.path());
        }
    }
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = fs::remove_dir(group) {
        if error.kind() == std::io::ErrorKind::NotFound {
            return;
        }
        // A process that was killed leaves its group when its last thread has ended, and with it what it held in the
        // kernel: probes take seconds.
        assert!(Instant::now() < deadline, "{}: {error}", group.display());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn unmount_below(folder: &Path) {
    let prefix = format!("{}/", folder.display());
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let paths: Vec<_> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .filter(|path| path.starts_with(&prefix))
        .collect();
    if !paths.is_empty() {
        // The last mounted first: it may stand on another.
        let output = run(Command::new("umount").arg("--lazy").args(paths.iter().rev()));
        succeeded(&output, &["umount"]);
    }
}

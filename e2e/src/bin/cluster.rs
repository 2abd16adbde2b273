//! `cluster`: a real Kubernetes of one node on this machine, to try things on; scripts/cluster.sh calls it.

use agentsight_e2e::cluster::Cluster;
use clap::{Parser, Subcommand};
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

/// A Kubernetes cluster of one node in a network namespace of its own.
///
/// Several of different names can run at once. It stays up until it is taken down.
#[derive(Parser)]
struct Arguments {
    /// The cluster's name: lower-case letters, digits and dashes.
    #[arg(long, env = "CLUSTER", default_value = "try")]
    name: String,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Bring it up; what is left of an earlier one of that name is taken down first.
    Up {
        /// Archives of images to make available, as `docker save` writes them.
        images: Vec<PathBuf>,
    },
    /// Make images available to pods.
    Import {
        /// Archives as `docker save` writes them.
        #[arg(required = true)]
        images: Vec<PathBuf>,
    },
    /// Take it down; nothing of it is left.
    Down,
    /// Run a command in its network, with KUBECONFIG set: kubectl, helm, or any other.
    Exec {
        /// The command and its arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let Some(cluster) = Cluster::or_skip(&arguments.name) else {
        anyhow::bail!("this machine cannot run a cluster (see above)");
    };
    match arguments.action {
        Action::Up { images } => {
            cluster.up();
            images.iter().for_each(|image| cluster.import(image));
        }
        Action::Import { images } => images.iter().for_each(|image| cluster.import(image)),
        Action::Down => cluster.down(),
        Action::Exec { command } => {
            let error = cluster.command(&command[0]).args(&command[1..]).exec();
            anyhow::bail!("{}: {error}", command[0].display());
        }
    }
    Ok(())
}

//! Writes what follows from the types, into the project's folder: the custom resource definitions, for
//! `kubectl` and for the chart, and their reference. `make crds` runs it.

use agentsight_api::generated;
use std::path::Path;

fn main() -> std::io::Result<()> {
    let project = std::env::args_os().nth(1).unwrap_or_else(|| ".".into());
    for (path, text) in generated() {
        let path = Path::new(&project).join(path);
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
        std::fs::write(path, text)?;
    }
    Ok(())
}

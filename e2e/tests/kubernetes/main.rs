//! The scenarios of a user's cluster, on a real one: installed by Helm, with our images, told by kubectl.
//!
//! The cluster is one of their own, or the one that KUBECONFIG_E2E names; what needs the machine under it is then left
//! out. One after the other, in this order; each removes its objects. `cargo test --test kubernetes NAME` runs some.

mod changes;
mod figures;
mod identity;
mod outages;
mod plaintext;
mod release;
mod tenancy;
mod workload;
mod world;

use libtest_mimic::{Arguments, Failed, Trial};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;
use world::World;

type Scenario = fn(&World);

/// In the order in which they run: what shakes the cluster comes late, what removes the release last.
const SCENARIOS: [(&str, Scenario); 15] = [
    ("s01_an_agent_in_a_deployment_is_seen_with_its_identity", identity::an_agent_in_a_deployment),
    ("s02_of_an_unselected_pod_nothing_is_copied", identity::an_unselected_pod),
    ("s03_a_changed_selector_moves_tracing_within_seconds", changes::a_changed_selector),
    ("s04_a_job_that_lives_less_than_a_second_is_seen", identity::a_short_job),
    ("s05_every_kind_of_container_is_told_apart", identity::kinds_of_containers),
    ("s06_bad_objects_and_unreachable_collectors_are_told", changes::bad_objects_and_collectors),
    ("s07_two_traces_on_one_pod_give_one_span_with_the_strictest_content", changes::two_traces_on_one_pod),
    ("s08_an_agent_killed_in_mid_stream_harms_nobody", outages::an_agent_is_killed),
    ("s09_without_an_operator_traces_go_on_and_new_ones_wait", outages::no_operator),
    ("s12_a_tenant_cannot_go_beyond_the_guardrails", tenancy::a_tenant_with_every_verb),
    ("s14_a_hundred_pods_at_once_are_told_apart", identity::a_hundred_pods),
    ("s15_a_model_in_the_pod_without_tls_is_seen_where_that_is_asked_for", plaintext::a_model_in_the_pod),
    ("s10_without_an_api_server_spans_keep_flowing", outages::no_api_server),
    ("s11_without_a_collector_telemetry_waits", outages::no_collector),
    ("s13_upgrade_rollback_and_uninstall_keep_what_they_should", release::upgrade_rollback_uninstall),
];

/// Instead of them where FIGURES is set: `bench/cluster.sh`.
const FIGURES: [(&str, Scenario); 1] = [("figures", figures::figures)];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    let scenarios = if std::env::var_os("FIGURES").is_some() { &FIGURES[..] } else { &SCENARIOS[..] };
    // They share the cluster, and some take parts of it away.
    arguments.test_threads = Some(1);
    let wanted = |name: &str| match &arguments.filter {
        Some(filter) if arguments.exact => name == filter,
        Some(filter) => name.contains(filter.as_str()),
        None => true,
    };
    let world = if arguments.list || !scenarios.iter().any(|(name, _)| wanted(name)) {
        None
    } else {
        World::or_skip().map(Arc::new)
    };
    let trials = scenarios
        .iter()
        .map(|&(name, scenario)| {
            let world = world.clone();
            let skipped = world.is_none();
            Trial::test(name, move || world.map_or(Ok(()), |world| run(name, scenario, &world)))
                .with_ignored_flag(skipped)
        })
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    if let Some(world) = world {
        world.close(conclusion.num_failed > 0);
    }
    conclusion.exit_code()
}

fn run(name: &str, scenario: Scenario, world: &World) -> Result<(), Failed> {
    let started = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(|| scenario(world)));
    eprintln!("{name}: {:.1} s", started.elapsed().as_secs_f64());
    if result.is_err() {
        world.keep_evidence(name);
    }
    world.clean_up();
    // The panic has been told.
    result.map_err(|_| Failed::without_message())
}

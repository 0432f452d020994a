//! A real Kubernetes under test: kubectl and helm as a person calls them, one namespace for each scenario.
//!
//! Which cluster that is says KUBECONFIG: the one of `tests/kube/up`, kind, or any other whose nodes were given
//! the images by `tests/kube/load-image`. Every wait has a deadline, and what was seen last is shown when it
//! passes. A namespace that a failed test leaves stays for a look at it; the next run of the test clears it.

mod client;
mod cluster;
mod forward;
mod ground;
mod load;
mod record;
mod replicas;

pub use client::{Said, command, helm, kubectl, try_kubectl, until};
pub use cluster::{Kvc, OPERATOR, install_operator, uninstall_operator};
pub use forward::Forward;
pub use ground::{Scenario, fresh_volumes, kill_worker, local_ground, start_worker, top};
pub use load::LoadPod;
pub use record::{Written, operator_calls, written};
pub use replicas::replicas_agree;

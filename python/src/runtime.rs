//! The threads that drive the network, one set for each process: a forked process begins its own. Whoever
//! waits lets other Python threads run, and hears Ctrl-C.

use std::future::Future;
use std::sync::OnceLock;
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use tokio::runtime::Runtime;

/// How long a wait goes on before it is looked whether a signal came.
const TICK: Duration = Duration::from_millis(50);

struct Own {
    process: u32,
    runtime: Runtime,
    /// That of a process which was forked while this one was in use.
    next: OnceLock<Box<Self>>,
}

static FIRST: OnceLock<Own> = OnceLock::new();

impl Own {
    fn new() -> PyResult<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("tenpak")
            .enable_all()
            .build()
            .map_err(|error| PyRuntimeError::new_err(format!("no threads: {error}")))?;
        Ok(Self { process: std::process::id(), runtime, next: OnceLock::new() })
    }
}

/// The runtime of this process.
pub(crate) fn runtime() -> PyResult<&'static Runtime> {
    let process = std::process::id();
    let mut own = match FIRST.get() {
        Some(own) => own,
        None => {
            let new = Own::new()?;
            FIRST.get_or_init(|| new)
        }
    };
    while own.process != process {
        own = match own.next.get() {
            Some(next) => next,
            None => {
                let new = Box::new(Own::new()?);
                own.next.get_or_init(|| new)
            }
        };
    }
    Ok(&own.runtime)
}

/// Waits for `future`, which a signal ends.
pub(crate) fn wait<T: Send + 'static>(
    py: Python<'_>,
    future: impl Future<Output = T> + Send + 'static,
) -> PyResult<T> {
    let runtime = runtime()?;
    let mut task = runtime.spawn(future);
    loop {
        let tick = || runtime.block_on(async { tokio::time::timeout(TICK, &mut task).await });
        match py.detach(tick) {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(failed)) => {
                let text = format!("tenpak contradicts itself: {failed}; please report this");
                return Err(PyRuntimeError::new_err(text));
            }
            Err(_) => {
                if let Err(signal) = py.check_signals() {
                    task.abort();
                    return Err(signal);
                }
            }
        }
    }
}

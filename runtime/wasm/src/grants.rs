//! The host's side of the grants: one function an interface, each linking what the contract says and no more.

use gristmill_core::plugin::Grant;
use rand::{TryRngCore, rngs::OsRng};
use tracing::Level;
use wasmtime::{
    StoreContextMut,
    component::{Linker, LinkerInstance, WasmList, WasmStr},
};

use crate::{
    contract::{PACKAGE, VERSION, WitLevel, WitStateError},
    fault::HostRefusal,
    instance::GuestState,
    memory::StateLimits,
};

/// The most random bytes in one call.
pub(crate) const MAX_RANDOM_BYTES: u32 = 65_536;

/// Links the interface of one grant.
///
/// # Errors
/// When something of that name is linked already.
pub(crate) fn link(linker: &mut Linker<GuestState>, grant: Grant) -> wasmtime::Result<()> {
    let mut interface = linker.instance(&format!("{PACKAGE}{}@{VERSION}", grant.name()))?;
    match grant {
        Grant::Log => log(&mut interface),
        Grant::Clock => clock(&mut interface),
        Grant::Random => random(&mut interface),
        Grant::Metrics => metrics(&mut interface),
        Grant::State => state(&mut interface),
    }
}

type Interface<'a> = LinkerInstance<'a, GuestState>;
type Caller<'a> = StoreContextMut<'a, GuestState>;

fn log(interface: &mut Interface<'_>) -> wasmtime::Result<()> {
    interface.func_wrap("write", |caller: Caller<'_>, (level, text): (WitLevel, WasmStr)| {
        let level = match level {
            WitLevel::Trace => Level::TRACE,
            WitLevel::Debug => Level::DEBUG,
            WitLevel::Info => Level::INFO,
            WitLevel::Warn => Level::WARN,
            WitLevel::Error => Level::ERROR,
        };
        let state = caller.data();
        state.shared.log.write(level, state.message.as_ref(), &text.to_str(&caller)?);
        Ok(())
    })
}

fn clock(interface: &mut Interface<'_>) -> wasmtime::Result<()> {
    interface
        .func_wrap("now-ms", |caller: Caller<'_>, ()| Ok((caller.data().shared.clock.now().as_millis(),)))?;
    interface.func_wrap("monotonic-ns", |caller: Caller<'_>, ()| {
        let elapsed = caller.data().shared.monotonic_base.elapsed();
        Ok((u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX),))
    })
}

fn random(interface: &mut Interface<'_>) -> wasmtime::Result<()> {
    interface.func_wrap("get-bytes", |_: Caller<'_>, (length,): (u32,)| {
        if length > MAX_RANDOM_BYTES {
            let text = format!(
                "random.get-bytes was asked for {length} bytes, at most {MAX_RANDOM_BYTES} are given"
            );
            return Err(HostRefusal(text).into());
        }
        let mut bytes = vec![0; usize::try_from(length)?];
        OsRng.try_fill_bytes(&mut bytes)?;
        Ok((bytes,))
    })
}

fn metrics(interface: &mut Interface<'_>) -> wasmtime::Result<()> {
    interface.func_wrap("add", |caller: Caller<'_>, (name, amount): (WasmStr, u64)| {
        let name = name.to_str(&caller)?;
        if admit_metric(&caller, &name) {
            caller.data().shared.observer.guest_counter(&name, amount);
        }
        Ok(())
    })?;
    interface.func_wrap("set-gauge", |caller: Caller<'_>, (name, value): (WasmStr, f64)| {
        let name = name.to_str(&caller)?;
        if admit_metric(&caller, &name) {
            caller.data().shared.observer.guest_gauge(&name, value);
        }
        Ok(())
    })
}

/// Whether this metric is counted. Says so once, when the first is not.
fn admit_metric(caller: &Caller<'_>, name: &str) -> bool {
    let shared = &caller.data().shared;
    match shared.memory.admit_metric(name) {
        Ok(()) => true,
        Err(refused) => {
            if refused.dropped == 1 {
                let name: String = name.escape_debug().take(80).collect();
                shared.log.note(&format!(
                    "the metric `{name}` and what follows it is not counted: a plugin may use 32 names of at most 128 bytes"
                ));
            }
            false
        }
    }
}

fn state(interface: &mut Interface<'_>) -> wasmtime::Result<()> {
    interface.func_wrap("get", |caller: Caller<'_>, (key,): (WasmStr,)| {
        Ok((caller.data().shared.memory.get(&key.to_str(&caller)?),))
    })?;
    interface.func_wrap("set", |caller: Caller<'_>, (key, value): (WasmStr, WasmList<u8>)| {
        let key = key.to_str(&caller)?;
        let value = value.as_le_slice(&caller);
        let set = caller.data().shared.memory.set(&key, value, state_limits(&caller));
        Ok((set.map_err(WitStateError::OverLimit),))
    })?;
    interface.func_wrap("delete", |caller: Caller<'_>, (key,): (WasmStr,)| {
        caller.data().shared.memory.delete(&key.to_str(&caller)?);
        Ok(())
    })?;
    interface.func_wrap("increment", |caller: Caller<'_>, (key, amount): (WasmStr, i64)| {
        let key = key.to_str(&caller)?;
        let sum = caller.data().shared.memory.increment(&key, amount, state_limits(&caller));
        Ok((sum.map_err(WitStateError::OverLimit),))
    })
}

fn state_limits(caller: &Caller<'_>) -> StateLimits {
    let limits = &caller.data().shared.limits;
    StateLimits { keys: limits.state_keys, bytes: limits.state_bytes }
}

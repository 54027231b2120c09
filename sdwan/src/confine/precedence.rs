//! Which of the daemon's threads the scheduler lets go first: the one that decides, and the one that writes decisions into
//! the maps. Together they take a fraction of a processor, and what they have to do can't wait, while whoever carries the
//! tunnels, answers the API or writes the history can.

use std::io;
use std::sync::atomic::{AtomicI32, Ordering};

/// Nice value (sched(7)) of those threads. The unit allows it (`LimitNICE=`), and so does `CAP_SYS_NICE`.
const NICE: i32 = -10;

/// Nice value of all others; until somebody takes precedence, none.
static ORDINARY: AtomicI32 = AtomicI32::new(UNKNOWN);
const UNKNOWN: i32 = i32::MAX;

/// Lets this thread go first, and those that it starts, until they [`give_up`]. Call it before capabilities are given up.
///
/// # Errors
/// When it isn't allowed to; everything works without.
pub fn take() -> io::Result<()> {
    let former = nice()?;
    // The image before this one may have left its own.
    ORDINARY.store(if former <= NICE { 0 } else { former }, Ordering::Relaxed);
    if former <= NICE { Ok(()) } else { set(NICE) }
}

/// Makes this thread one of the others, if it is not.
pub fn give_up() {
    let ordinary = ORDINARY.load(Ordering::Relaxed);
    if ordinary != UNKNOWN {
        // Lowering oneself is always allowed; a thread that could not would only go first, too.
        let _ = set(ordinary);
    }
}

fn nice() -> io::Result<i32> {
    // SAFETY: `__errno_location` points to this thread's error number, which −1 as a result doesn't tell from a value.
    let (nice, error) = unsafe {
        *libc::__errno_location() = 0;
        (libc::getpriority(libc::PRIO_PROCESS, 0), *libc::__errno_location())
    };
    if error == 0 { Ok(nice) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// Linux counts a nice value for each thread: 0 is the caller.
fn set(nice: i32) -> io::Result<()> {
    // SAFETY: setpriority takes three numbers.
    match unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_goes_first_with_those_it_starts_and_each_can_give_that_up() {
        let there = std::thread::spawn(|| {
            if let Err(error) = take() {
                eprintln!(
                    "skipped: a_thread_goes_first_with_those_it_starts_and_each_can_give_that_up: no CAP_SYS_NICE: {error}"
                );
                return;
            }
            let inherited = std::thread::spawn(nice).join().expect("no panic").expect("it is told");
            assert_eq!((nice().expect("it is told"), inherited), (NICE, NICE));
            give_up();
            assert!(nice().expect("it is told") > NICE);
        });
        there.join().expect("no panic");
    }
}

//! Reservation, following and burial of a process's slot.

use procession_shm::slots::{Census, Rites, SlotWords, State, Status};
use procession_shm::wait::Owner;
use shuttle::sync::Arc;
use shuttle::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use shuttle::thread;

use crate::{Family, explore};

const PARENT: u16 = 0;
const CHILD: u16 = 1;
const SWEEPERS: [u16; 2] = [2, 3];
const TEMPLATE: u16 = 4;
const TASK: u32 = 7;

/// The table: the child's slot in detail, of the others whether they are over.
#[derive(Default)]
struct Table {
    family: Family,
    slot: SlotWords,
    /// Whether the child has taken its first step; whether it is over.
    holds: AtomicBool,
    task: AtomicU32,
    /// How often what the child held was given back while it lived.
    robbed: AtomicU32,
    /// Whether the next burial finds a stopped process in its way.
    in_the_way: AtomicBool,
}

impl Table {
    fn is_dead(&self, slot: u16) -> bool {
        self.family.dead[usize::from(slot)].load(Ordering::SeqCst)
    }

    fn kill(&self, slot: u16) {
        self.family.dead[usize::from(slot)].store(true, Ordering::SeqCst);
    }

    fn seen_by(&self, me: u16) -> View<'_> {
        View { table: self, me }
    }

    fn state(&self) -> State {
        self.slot.state().unwrap()
    }

    /// The parent's side before the fork.
    fn reserve(&self, by: u16, follower: Option<u16>) -> u32 {
        let generation = self.slot.reserve(by).unwrap();
        self.slot.follow(follower.map(|slot| Owner::process(slot, 1)));
        self.holds.store(true, Ordering::SeqCst);
        generation
    }

    /// The child: it takes its first step, writes down a task, and is killed.
    fn live_and_die(&self, generation: u32) {
        if self.slot.claim(generation, CHILD) {
            thread::yield_now();
            self.task.store(TASK, Ordering::SeqCst);
        }
        self.kill(CHILD);
    }

    /// What any process does that looks at the slot.
    fn sweep(&self, me: u16) {
        let view = self.seen_by(me);
        let is_over = |state: State| state.status == Status::Live && self.is_dead(CHILD);
        if let Some(state) = self.slot.to_be_buried(&view, is_over) {
            self.slot.bury_unread(state, &view, &view);
        }
    }
}

/// The table as one of its processes sees it.
struct View<'t> {
    table: &'t Table,
    me: u16,
}

impl Census for View<'_> {
    fn me(&self) -> u16 {
        self.me
    }
    fn is_over(&self, slot: u16, _generation: u32) -> bool {
        self.table.is_dead(slot)
    }
    fn has_left(&self, slot: u16) -> bool {
        self.table.is_dead(slot)
    }
}

impl Rites for View<'_> {
    fn give_back(&self) -> bool {
        if self.table.in_the_way.swap(false, Ordering::SeqCst) {
            return false;
        }
        if !self.table.is_dead(CHILD) && self.table.holds.load(Ordering::SeqCst) {
            self.table.robbed.fetch_add(1, Ordering::SeqCst);
        }
        self.table.holds.store(false, Ordering::SeqCst);
        true
    }
    fn clear(&self) {
        self.table.task.store(0, Ordering::SeqCst);
    }
}

fn sweepers(table: &Arc<Table>, mortal: bool) -> Vec<thread::JoinHandle<()>> {
    SWEEPERS
        .into_iter()
        .map(|slot| {
            let table = table.clone();
            thread::spawn(move || {
                let sweep = || (0..2).for_each(|_| table.sweep(slot));
                if mortal && slot == SWEEPERS[0] {
                    let _ = table.family.mortal(slot, sweep);
                } else {
                    sweep();
                }
            })
        })
        .collect()
}

fn join(threads: Vec<thread::JoinHandle<()>>) {
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn a_follower_reads_what_its_child_left_whoever_buries_it() {
    for mortal in [false, true] {
        explore(true, move || {
            let table = Arc::new(Table::default());
            // Before there is a child.
            let generation = table.reserve(PARENT, Some(PARENT));
            let mut threads = sweepers(&table, mortal);
            let child = table.clone();
            threads.push(thread::spawn(move || child.live_and_die(generation)));
            while !table.is_dead(CHILD) {
                thread::yield_now();
            }
            assert_eq!(table.task.load(Ordering::SeqCst), TASK, "the task of the dead is gone");
            let view = table.seen_by(PARENT);
            table.slot.release(generation, &view, &view);
            join(threads);
            table.sweep(PARENT);
            assert_eq!(table.state().status, Status::Free);
            assert!(!table.holds.load(Ordering::SeqCst), "what the dead held is held for ever");
        });
    }
}

#[test]
fn a_child_without_a_follower_is_buried_by_whoever_comes_along() {
    explore(true, || {
        let table = Arc::new(Table::default());
        let generation = table.reserve(PARENT, None);
        let child = table.clone();
        thread::spawn(move || child.live_and_die(generation)).join().unwrap();
        join(sweepers(&table, true));
        // The one may have died with it, and the other have looked before.
        table.sweep(SWEEPERS[1]);
        assert_eq!(table.state().status, Status::Free);
        assert!(!table.holds.load(Ordering::SeqCst));
        assert!(table.slot.reserve(PARENT).is_some_and(|next| next > generation));
    });
}

#[test]
fn a_burial_that_a_stopped_process_is_in_the_way_of_is_made_later() {
    for mortal in [false, true] {
        explore(true, move || {
            let table = Arc::new(Table::default());
            let generation = table.reserve(PARENT, Some(PARENT));
            table.in_the_way.store(true, Ordering::SeqCst);
            let mut threads = sweepers(&table, mortal);
            let child = table.clone();
            threads.push(thread::spawn(move || child.live_and_die(generation)));
            while !table.is_dead(CHILD) {
                thread::yield_now();
            }
            assert_eq!(table.task.load(Ordering::SeqCst), TASK, "the task of the dead is gone");
            let view = table.seen_by(PARENT);
            table.slot.release(generation, &view, &view);
            join(threads);
            // The first look may find the burial that was put off.
            (0..2).for_each(|_| table.sweep(PARENT));
            assert_eq!(table.state().status, Status::Free);
            assert!(!table.holds.load(Ordering::SeqCst), "what the dead held is held for ever");
        });
    }
}

#[test]
fn no_process_waits_for_a_follower_that_dies() {
    explore(true, || {
        let table = Arc::new(Table::default());
        let generation = table.reserve(PARENT, Some(PARENT));
        let mut threads = sweepers(&table, false);
        let family = table.clone();
        threads.push(thread::spawn(move || {
            family.live_and_die(generation);
            family.kill(PARENT);
        }));
        join(threads);
        table.sweep(SWEEPERS[1]);
        assert_eq!(table.state().status, Status::Free);
    });
}

#[test]
fn a_reservation_is_claimed_or_withdrawn_and_never_both() {
    explore(true, || {
        let table = Arc::new(Table::default());
        let generation = table.reserve(PARENT, Some(PARENT));
        let mut threads = sweepers(&table, false);
        let child = table.clone();
        let claimed = thread::spawn(move || child.slot.claim(generation, CHILD));
        let parent = table.clone();
        let withdrawn = thread::spawn(move || {
            let view = parent.seen_by(PARENT);
            parent.slot.withdraw(generation, &view, &view)
        });
        let (claimed, withdrawn) = (claimed.join().unwrap(), withdrawn.join().unwrap());
        threads.drain(..).for_each(|thread| thread.join().unwrap());
        assert_ne!(claimed, withdrawn);
        let status = if claimed { Status::Live } else { Status::Free };
        assert_eq!(table.state().status, status);
        assert_eq!(table.holds.load(Ordering::SeqCst), claimed, "a living child was robbed");
    });
}

#[test]
fn no_process_buries_a_child_that_lives() {
    explore(true, || {
        let table = Arc::new(Table::default());
        let generation = table.reserve(PARENT, Some(PARENT));
        let mut threads = sweepers(&table, true);
        // The parent dies meanwhile, and its reservations are taken off its name.
        let parent = table.clone();
        threads.push(thread::spawn(move || {
            parent.kill(PARENT);
            parent.slot.orphan(PARENT, CHILD);
        }));
        assert!(table.slot.claim(generation, CHILD));
        join(threads);
        table.sweep(SWEEPERS[1]);
        assert_eq!(table.state(), State { status: Status::Live, by: CHILD, generation });
        assert_eq!(table.robbed.load(Ordering::SeqCst), 0);
    });
}

#[test]
fn a_child_that_is_handed_over_has_a_follower_all_the_time() {
    explore(true, || {
        let table = Arc::new(Table::default());
        let generation = table.reserve(TEMPLATE, Some(TEMPLATE));
        let mut threads = sweepers(&table, true);
        let child = table.clone();
        threads.push(thread::spawn(move || child.live_and_die(generation)));
        let template = table.clone();
        let requester = thread::spawn(move || {
            template.slot.hand_over(generation, Owner::process(PARENT, 1));
            template.kill(TEMPLATE);
        });
        requester.join().unwrap();
        while !table.is_dead(CHILD) {
            thread::yield_now();
        }
        assert_eq!(table.task.load(Ordering::SeqCst), TASK);
        let view = table.seen_by(PARENT);
        table.slot.release(generation, &view, &view);
        join(threads);
        table.sweep(PARENT);
        assert_eq!(table.state().status, Status::Free);
    });
}

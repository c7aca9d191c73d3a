//! Processes of every role are killed at every fail point, and at random. Those that are left must
//! come to their end, lose no message, and leave nothing behind.

#![cfg(not(model))]

mod support;

use std::sync::atomic::Ordering;
use std::time::Duration;

use procession_os::clock::Monotonic;
use procession_os::pidfd::{ExitStatus, PidFd};
use procession_os::process;
use procession_shm::arena::{self, Forked};
use procession_shm::failpoint;
use procession_shm::memory::SharedBlock;
use procession_shm::queue::{Queue, QueueError, QueueJoinError};
use procession_shm::sync::{Event, Lock, RLock, Semaphore};
use procession_shm::wait::{Acquired, Wait, WaitError};
use support::{Child, Random, SIGKILL, Words, alone, arena, at, child, micros};

/// What each process of a scenario does, until it is told to stop or is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Producer,
    Consumer,
    Locker,
    Permits,
    Maker,
    Allocator,
    Burier,
}

const ROLES: [Role; 7] = [
    Role::Producer,
    Role::Consumer,
    Role::Locker,
    Role::Permits,
    Role::Maker,
    Role::Allocator,
    Role::Burier,
];

const SIZES: [usize; 9] = [16, 100, 3000, 4096, 4097, 8192, 9000, 70_000, 24];
const PRODUCERS: usize = 4;
const CONSUMERS: usize = 4;
/// The most messages of one producer.
const MAX_MESSAGES: usize = 20_000;

/// What the processes write down for the test to judge.
#[derive(Clone)]
struct Record(Words);

impl Record {
    /// 1: producers stop; 2: all others do, once the queue is empty.
    const STOP: usize = 0;
    /// 1 while a process is inside the lock.
    const INSIDE: usize = 1;
    /// How often a death was told by the lock.
    const TOLD: usize = 2;

    fn new() -> Self {
        Self(Words::new(64 + 2 * (PRODUCERS * MAX_MESSAGES) as u64))
    }

    fn claim(consumer: usize) -> usize {
        assert!(consumer < CONSUMERS);
        16 + consumer
    }

    /// How many puts of a producer returned.
    fn returned(producer: usize) -> usize {
        assert!(producer < PRODUCERS);
        32 + producer
    }

    /// The number + 1 of a message as put gave it; the word behind is as get gave it.
    fn put(producer: usize, sequence: usize) -> usize {
        64 + 2 * (producer * MAX_MESSAGES + sequence)
    }

    fn got(producer: usize, sequence: usize) -> usize {
        Self::put(producer, sequence) + 1
    }

    fn stopped(&self) -> u64 {
        self.0.get(Self::STOP)
    }
}

#[derive(Clone)]
struct Scenario {
    record: Record,
    queue: Queue,
    lock: Lock,
    permits: Semaphore,
}

const PERMITS: u32 = 2;

fn message(producer: usize, sequence: usize) -> Vec<u8> {
    let len = SIZES[(sequence * 7 + producer) % SIZES.len()];
    let mut bytes = vec![(producer * 31 + sequence) as u8; len];
    bytes[..8].copy_from_slice(&(producer as u64).to_le_bytes());
    bytes[8..16].copy_from_slice(&(sequence as u64).to_le_bytes());
    bytes
}

impl Scenario {
    fn new(capacity: Option<u64>) -> Self {
        Self {
            record: Record::new(),
            queue: Queue::joinable(arena(), "queue", capacity).unwrap(),
            lock: Lock::new(arena(), "lock").unwrap(),
            permits: Semaphore::recovering(arena(), "permits", PERMITS).unwrap(),
        }
    }

    /// Runs a role; `number` tells apart those of the same role.
    fn play(&self, role: Role, number: usize) {
        match role {
            Role::Producer => self.produce(number),
            Role::Consumer => self.consume(number),
            Role::Locker => self.hold_lock(number),
            Role::Permits => self.hold_permits(number),
            Role::Maker => self.make(number),
            Role::Allocator => self.allocate(number),
            Role::Burier => self.bury(),
        }
    }

    fn produce(&self, me: usize) {
        let record = &self.record.0;
        for sequence in 0..MAX_MESSAGES {
            if self.record.stopped() > 0 {
                return;
            }
            while self.queue.len() > 100 {
                micros(100);
            }
            let message = message(me, sequence);
            let number = if sequence % 10 == 9 {
                let put = self.queue.put_many([(me as u8, &message[..])], Wait::FOREVER);
                assert_eq!(put.unwrap(), 1);
                None
            } else {
                Some(self.queue.put(me as u8, &message, Wait::FOREVER).unwrap())
            };
            if let Some(number) = number {
                record.set(Record::put(me, sequence), number + 1);
            }
            record.set(Record::returned(me), sequence as u64 + 1);
        }
    }

    fn consume(&self, me: usize) {
        let record = &self.record.0;
        let claim = record.at(Record::claim(me));
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            let soon = Monotonic::now().after(Duration::from_millis(10));
            let got = self.queue.get_claiming(&mut bytes, claim, Wait::until(Some(soon)));
            let (kind, number) = match got {
                Ok(got) => got,
                Err(QueueError::Wait(WaitError::TimedOut)) if self.record.stopped() == 2 => return,
                Err(QueueError::Wait(WaitError::TimedOut)) => continue,
                Err(error) => panic!("get: {error}"),
            };
            let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
            let (producer, sequence) = (word(0) as usize, word(8) as usize);
            let as_put = bytes == message(producer, sequence);
            assert!(as_put, "message {sequence} of {producer} came out changed");
            assert_eq!(usize::from(kind), producer);
            let before =
                record.at(Record::got(producer, sequence)).swap(number + 1, Ordering::SeqCst);
            assert_eq!(before, 0, "message {sequence} of {producer} came twice");
            self.queue.task_done().unwrap();
        }
    }

    fn hold_lock(&self, me: usize) {
        let record = &self.record.0;
        let inside = record.at(Record::INSIDE);
        for round in me.. {
            // Once more after the others were stopped: one of them may have died with the lock
            // since.
            let last = self.record.stopped() == 2;
            let acquired = self.lock.acquire(Wait::FOREVER).unwrap();
            let found = inside.swap(1, Ordering::SeqCst);
            match acquired {
                Acquired::Clean => assert_eq!(found, 0, "two were inside the lock"),
                Acquired::OwnerDied(_) => {
                    record.at(Record::TOLD).fetch_add(1, Ordering::SeqCst);
                }
            }
            // Sometimes long enough for the others to fall asleep.
            if round % 4 == 0 {
                micros(500);
            }
            inside.store(0, Ordering::SeqCst);
            self.lock.release().unwrap();
            if last {
                return;
            }
            if round % 3 == 0 {
                micros(50);
            }
        }
    }

    fn hold_permits(&self, me: usize) {
        for round in me.. {
            if self.record.stopped() == 2 {
                return;
            }
            self.permits.acquire(Wait::FOREVER).unwrap();
            if round % 4 == 0 {
                micros(300);
            }
            self.permits.release().unwrap();
        }
    }

    fn make(&self, me: usize) {
        for round in me.. {
            if self.record.stopped() == 2 {
                return;
            }
            let lock = Lock::new(arena(), "made").unwrap();
            let again = Lock::open(lock.handle()).unwrap();
            drop(lock);
            assert!(again.try_acquire());
            let event = Event::new(arena(), "made").unwrap();
            event.set();
            let rlock = RLock::new(arena(), "made").unwrap();
            let permits = Semaphore::recovering(arena(), "made", 100).unwrap();
            assert!(permits.try_acquire());
            let queue = Queue::new(arena(), "made", None).unwrap();
            for sequence in 0..round % 12 {
                queue.put(0, &message(0, sequence), Wait::FOREVER).unwrap();
            }
            let small = SharedBlock::new(arena(), "made", 100).unwrap();
            let large = SharedBlock::new(arena(), "made", 200_000).unwrap();
            assert_eq!(rlock.try_acquire(), Some(Acquired::Clean));
            drop((small, large, queue, permits, rlock, event, again));
            micros(200);
        }
    }

    fn allocate(&self, me: usize) {
        let mut random = Random(me as u64 * 77 + 1);
        let mut blocks = Vec::new();
        while self.record.stopped() < 2 {
            let size = [64, 500, 8000, 50_000, 70_000, 400_000][random.below(6) as usize];
            blocks.push(SharedBlock::new(arena(), "allocated", size).unwrap());
            // More at times than the processes keep for themselves.
            if random.below(50) == 0 {
                for _ in 0..60 {
                    blocks.push(SharedBlock::new(arena(), "allocated", 8000).unwrap());
                }
            }
            while blocks.len() > 20 || random.below(3) == 0 && !blocks.is_empty() {
                blocks.swap_remove(random.below(blocks.len() as u64) as usize);
            }
            micros(50);
        }
    }

    fn bury(&self) {
        while self.record.stopped() < 2 {
            // SAFETY: this is a child with one thread, and its child leaves at once.
            let pid = match unsafe { arena::fork() }.unwrap() {
                Forked::Child => process::exit_now(0),
                Forked::Parent(pid, _) => pid,
            };
            let pidfd = PidFd::open(pid).unwrap();
            while !pidfd.ended_by(None).unwrap() {}
            pidfd.reap().unwrap();
            arena().bury_dead();
            micros(500);
        }
    }

    /// Stops all in order, waits for them, and judges. Returns which were killed, and how many
    /// deaths the lock told.
    fn judge(self, mut players: Vec<(Role, usize, Child)>) -> (Vec<(Role, usize)>, u64) {
        self.record.0.set(Record::STOP, 1);
        let mut killed = Vec::new();
        for step in [true, false] {
            if !step {
                self.queue.check().unwrap();
                self.record.0.set(Record::STOP, 2);
            }
            let (now, later) = players
                .into_iter()
                .partition::<Vec<_>, _>(|(role, ..)| (*role == Role::Producer) == step);
            players = later;
            for (role, number, child) in now {
                match child.join() {
                    ExitStatus::Signaled(SIGKILL) => killed.push((role, number)),
                    status => assert_eq!(status, ExitStatus::Exited(0), "{role:?} {number}"),
                }
            }
        }
        support::only_me();
        assert_eq!(self.queue.check().unwrap(), 0);
        self.judge_messages(&killed);
        self.judge_tasks(&killed);

        // What the dead had in hands is freed already, not only when the queue ends: there is the
        // chunk that both ends are in, and a body each for queue, permits and record.
        self.queue.put(0, b"", Wait::FOREVER).unwrap();
        self.queue.get(&mut Vec::new(), Wait::FOREVER).unwrap();
        assert_eq!(arena().blocks_in_use().unwrap(), 4);
        assert!(self.lock.try_acquire_or_inherit().is_some());
        assert!((0..PERMITS).all(|_| self.permits.try_acquire()), "a permit did not come back");
        assert!(!self.permits.try_acquire());
        let told = self.record.0.get(Record::TOLD);
        drop(self);
        support::nothing_left();
        (killed, told)
    }

    /// Only those tasks are open that a consumer died with, and that is told.
    fn judge_tasks(&self, killed: &[(Role, usize)]) {
        let open = self.queue.unfinished();
        let max = killed.iter().filter(|(role, _)| *role == Role::Consumer).count();
        assert!(open <= max as u64, "{open} tasks are open, {max} consumers were killed");
        if open > 0 {
            let joined = self.queue.join(Wait::FOREVER);
            assert_eq!(joined, Err(QueueJoinError::Lost(open)));
        }
        self.queue.join(Wait::FOREVER).unwrap();
        // What was told to be lost may be done after all.
        for _ in 0..open {
            self.queue.task_done().unwrap();
        }
        assert!(self.queue.task_done().is_err());
    }

    fn judge_messages(&self, killed: &[(Role, usize)]) {
        let record = &self.record.0;
        let claims: Vec<u64> = killed
            .iter()
            .filter(|(role, _)| *role == Role::Consumer)
            .map(|(_, number)| record.get(Record::claim(*number)))
            .collect();
        let (mut lost, mut numbers) = (0, Vec::new());
        for producer in 0..PRODUCERS {
            let mut last = 0;
            let returned = record.get(Record::returned(producer)) as usize;
            for sequence in 0..MAX_MESSAGES {
                let put = record.get(Record::put(producer, sequence));
                let got = record.get(Record::got(producer, sequence));
                if got != 0 {
                    assert!(sequence <= returned, "{sequence} of {producer} was never put");
                    assert!(got > last, "{sequence} of {producer} came before an earlier one");
                    assert!(put == 0 || put == got, "{sequence} of {producer} changed its number");
                    last = got;
                    numbers.push(got);
                } else if sequence < returned {
                    lost += 1;
                    let claimed = claims.contains(&put) || put == 0;
                    assert!(
                        claimed,
                        "{sequence} of {producer} was lost, and no killed process had it"
                    );
                }
            }
        }
        assert!(lost <= claims.len(), "{lost} were lost with {} consumers", claims.len());
        let all = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), all, "two messages have one number");
    }
}

/// The role that is sure to come to a fail point in time.
fn role_that_reaches(name: &str) -> Role {
    let floors = [
        ("queue.put.", Role::Producer),
        ("queue.get.", Role::Consumer),
        ("queue.task_done.", Role::Consumer),
        ("lock.", Role::Locker),
        ("object.", Role::Maker),
        ("heap.", Role::Allocator),
        ("process.", Role::Burier),
    ];
    let found = floors.iter().find(|(floor, _)| name.starts_with(floor));
    found.unwrap_or_else(|| panic!("no role for {name}")).1
}

#[test]
fn survivors_go_on_wherever_a_process_is_killed() {
    let _alone = alone("survivors_go_on_wherever_a_process_is_killed");
    // Those of conditions, events, barriers, joins, watchers and waiters of locks have their own
    // tests, and so has a heap that is short of memory, or has lain idle.
    let apart = [
        "condition.",
        "event.",
        "barrier.",
        "tasks.",
        "watch.",
        "lock.woken",
        "heap.run.",
        "heap.trim.",
    ];
    let here = |name: &&&str| !apart.iter().any(|floor| name.starts_with(floor));
    for name in failpoint::ALL.iter().filter(here) {
        for nth in [1, 2, 5] {
            at(&format!("{name}, time {nth}"));
            let scenario = Scenario::new((nth == 2).then_some(8));
            let mut players = Vec::new();
            for role in ROLES {
                let play = || {
                    failpoint::arm(name, nth);
                    scenario.play(role, 0);
                };
                players.push((role, 0, child(play)));
            }
            for role in [Role::Producer, Role::Consumer, Role::Locker, Role::Permits, Role::Maker] {
                players.push((role, 1, child(|| scenario.play(role, 1))));
            }
            let reaches = role_that_reaches(name);
            let victim = players.iter().find(|(role, ..)| *role == reaches).unwrap();
            while !victim.2.has_ended() {
                micros(200);
            }
            let (killed, told) = scenario.judge(players);
            assert!(killed.contains(&(reaches, 0)), "no process was killed at {name}: {killed:?}");
            assert!(killed.iter().all(|(_, number)| *number == 0), "a survivor was killed");
            let held = matches!(*name, "lock.acquired" | "lock.releasing");
            assert_eq!(told, u64::from(held), "{name}: deaths told");
        }
    }
}

/// A consumer that takes so many tasks and is killed with them; it calls `done` of them done.
fn dies_with_tasks(queue: &Queue, taken: usize, done: usize) {
    let consumer = child(|| {
        for _ in 0..taken {
            queue.get(&mut Vec::new(), Wait::FOREVER).unwrap();
        }
        for _ in 0..done {
            queue.task_done().unwrap();
        }
        process::kill_self();
    });
    assert_eq!(consumer.join(), ExitStatus::Signaled(SIGKILL));
}

#[test]
fn tasks_that_processes_died_with_are_told_once() {
    let _alone = alone("tasks_that_processes_died_with_are_told_once");
    let queue = Queue::joinable(arena(), "tasks", None).unwrap();
    for waiting in [1, 4] {
        for _ in 0..8 {
            queue.put(0, b"task", Wait::FOREVER).unwrap();
        }
        let told = Words::new(1);
        let joiners: Vec<Child> = (0..waiting)
            .map(|_| {
                // It may look between the two deaths, and be told of each.
                child(|| {
                    while let Err(error) = queue.join(Wait::FOREVER) {
                        let QueueJoinError::Lost(count) = error else { panic!("{error}") };
                        told.at(0).fetch_add(count, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        dies_with_tasks(&queue, 3, 1);
        // The next process in its slot has tasks of its own.
        dies_with_tasks(&queue, 4, 3);
        queue.get(&mut Vec::new(), Wait::FOREVER).unwrap();
        while told.get(0) < 3 {
            assert!(joiners.iter().all(|joiner| !joiner.has_ended()));
            micros(200);
        }
        assert_eq!(queue.unfinished(), 1);
        queue.task_done().unwrap();
        for joiner in joiners {
            assert_eq!(joiner.join(), ExitStatus::Exited(0));
        }
        assert_eq!(told.get(0), 3);
        assert_eq!(queue.unfinished(), 0);
    }
    drop(queue);
    support::only_me();
    support::nothing_left();
}

/// Runs a life that comes to a fail point, and ends there.
fn is_killed_at(name: &str, life: impl FnOnce()) {
    let victim = child(|| {
        failpoint::arm(name, 1);
        life();
    });
    assert_eq!(victim.join(), ExitStatus::Signaled(SIGKILL), "no process was killed at {name}");
}

#[test]
fn a_joiner_that_is_killed_as_it_finds_lost_tasks_leaves_no_other_waiting() {
    let _alone = alone("a_joiner_that_is_killed_as_it_finds_lost_tasks_leaves_no_other_waiting");
    for (name, told) in [("tasks.forgiving", true), ("tasks.forgiven", false)] {
        let queue = Queue::joinable(arena(), "tasks", None).unwrap();
        put_tasks(&queue, 1);
        dies_with_tasks(&queue, 1, 0);
        is_killed_at(name, || assert!(queue.join(Wait::FOREVER).is_ok()));
        let found = if told { Err(QueueJoinError::Lost(1)) } else { Ok(()) };
        assert_eq!(queue.join(Wait::FOREVER), found, "{name}");
        queue.join(Wait::FOREVER).unwrap();
    }
    support::only_me();
    support::nothing_left();
}

#[test]
fn who_is_killed_as_it_calls_a_task_done_or_settles_hides_no_loss() {
    let _alone = alone("who_is_killed_as_it_calls_a_task_done_or_settles_hides_no_loss");
    let queue = Queue::joinable(arena(), "tasks", None).unwrap();
    put_tasks(&queue, 1);
    take(&queue);
    calls_done(&queue, 1);
    is_killed_at("tasks.settling", || assert!(queue.join(Wait::FOREVER).is_ok()));
    put_tasks(&queue, 1);
    dies_with_tasks(&queue, 1, 0);
    assert_eq!(queue.join(Wait::FOREVER), Err(QueueJoinError::PerhapsLost(1)));
    queue.task_done().unwrap();
    queue.join(Wait::FOREVER).unwrap();
    // From here on the accounts are exact again.
    // The second is killed when its call is noted, and may still be told of.
    for (name, told) in [("tasks.doubted", 1), ("tasks.overdone", 2)] {
        at(name);
        put_tasks(&queue, 1);
        dies_with_tasks(&queue, 1, 0);
        assert_eq!(queue.join(Wait::FOREVER), Err(QueueJoinError::Lost(1)));
        put_tasks(&queue, 1);
        is_killed_at(name, || assert!(queue.task_done().is_ok()));
        dies_with_tasks(&queue, 1, 0);
        assert_eq!(queue.join(Wait::FOREVER), Err(QueueJoinError::PerhapsLost(1)));
        queue.task_done().unwrap();
        // A call may have been for the task that was lost first.
        assert_eq!(queue.join(Wait::FOREVER), Err(QueueJoinError::PerhapsLost(told)));
        queue.join(Wait::FOREVER).unwrap();
    }
    drop(queue);
    support::only_me();
    support::nothing_left();
}

#[test]
fn a_task_that_a_living_process_has_is_not_lost() {
    let _alone = alone("a_task_that_a_living_process_has_is_not_lost");
    let queue = Queue::joinable(arena(), "tasks", None).unwrap();
    for _ in 0..2 {
        queue.put(0, b"task", Wait::FOREVER).unwrap();
    }
    queue.get(&mut Vec::new(), Wait::FOREVER).unwrap();
    dies_with_tasks(&queue, 1, 0);
    assert_eq!(queue.join(Wait::FOREVER), Err(QueueJoinError::Lost(1)));
    let soon = Wait::until(Some(Monotonic::now().after(Duration::from_millis(300))));
    assert_eq!(queue.join(soon), Err(QueueJoinError::Wait(WaitError::TimedOut)));
    queue.task_done().unwrap();
    queue.join(Wait::FOREVER).unwrap();
    drop(queue);
    support::nothing_left();
}

fn within(millis: u64) -> Wait {
    Wait::until(Some(Monotonic::now().after(Duration::from_millis(millis))))
}

fn put_tasks(queue: &Queue, count: usize) {
    for _ in 0..count {
        queue.put(0, b"task", Wait::FOREVER).unwrap();
    }
}

fn take(queue: &Queue) {
    queue.get(&mut Vec::new(), Wait::FOREVER).unwrap();
}

/// A process that calls tasks done which it did not take.
fn calls_done(queue: &Queue, count: usize) {
    child(|| (0..count).for_each(|_| queue.task_done().unwrap())).succeeds();
}

#[test]
fn a_loss_is_told_exactly_when_what_was_passed_on_before_is_done() {
    let _alone = alone("a_loss_is_told_exactly_when_what_was_passed_on_before_is_done");
    let queue = Queue::joinable(arena(), "tasks", None).unwrap();
    for round in 0..3 {
        put_tasks(&queue, 2);
        take(&queue);
        take(&queue);
        calls_done(&queue, 2);
        if round > 0 {
            // One of these may have been for the task that was lost in the round before.
            assert_eq!(queue.join(Wait::FOREVER), Err(QueueJoinError::PerhapsLost(1)));
        }
        queue.join(Wait::FOREVER).unwrap();
        put_tasks(&queue, 1);
        dies_with_tasks(&queue, 1, 0);
        assert_eq!(queue.join(Wait::FOREVER), Err(QueueJoinError::Lost(1)));
        queue.join(Wait::FOREVER).unwrap();
    }
    drop(queue);
    support::only_me();
    support::nothing_left();
}

#[test]
fn a_loss_that_can_not_be_known_is_told_as_possible_until_all_is_done() {
    let _alone = alone("a_loss_that_can_not_be_known_is_told_as_possible_until_all_is_done");
    let queue = Queue::joinable(arena(), "tasks", None).unwrap();
    put_tasks(&queue, 2);
    take(&queue);
    // The task of this process: by the accounts it might as well be that of the next.
    calls_done(&queue, 1);
    dies_with_tasks(&queue, 1, 0);
    for _ in 0..3 {
        assert_eq!(queue.join(Wait::FOREVER), Err(QueueJoinError::PerhapsLost(1)));
    }
    // In the dead one's place in the process table, with an account of its own.
    put_tasks(&queue, 1);
    dies_with_tasks(&queue, 1, 1);
    assert_eq!(queue.join(Wait::FOREVER), Err(QueueJoinError::PerhapsLost(1)));
    // This process knows that no process will do it.
    queue.task_done().unwrap();
    queue.join(Wait::FOREVER).unwrap();
    assert!(queue.task_done().is_err());
    drop(queue);
    support::only_me();
    support::nothing_left();
}

#[test]
fn no_loss_is_told_while_all_takers_live() {
    let _alone = alone("no_loss_is_told_while_all_takers_live");
    let queue = Queue::joinable(arena(), "tasks", None).unwrap();
    put_tasks(&queue, 3);
    take(&queue);
    take(&queue);
    // Passed on: one is done, and one has an end that this queue knows nothing of.
    calls_done(&queue, 1);
    child(|| process::kill_self()).join();
    let stopped = Err(QueueJoinError::Wait(WaitError::TimedOut));
    assert_eq!(queue.join(within(300)), stopped);
    queue.task_done().unwrap();
    assert_eq!(queue.join(within(300)), stopped, "one was not taken yet");
    take(&queue);
    queue.task_done().unwrap();
    queue.join(Wait::FOREVER).unwrap();
    drop(queue);
    support::nothing_left();
}

#[test]
fn a_task_that_was_lost_and_is_done_after_all_hides_no_other() {
    let _alone = alone("a_task_that_was_lost_and_is_done_after_all_hides_no_other");
    let queue = Queue::joinable(arena(), "tasks", None).unwrap();
    for _ in 0..3 {
        put_tasks(&queue, 1);
        dies_with_tasks(&queue, 1, 0);
        assert_eq!(queue.join(Wait::FOREVER), Err(QueueJoinError::Lost(1)));
        // The dead one had passed it on, and it is done while another is open, which is lost.
        put_tasks(&queue, 1);
        calls_done(&queue, 1);
        dies_with_tasks(&queue, 1, 0);
        assert_eq!(queue.join(Wait::FOREVER), Err(QueueJoinError::PerhapsLost(1)));
        queue.join(Wait::FOREVER).unwrap();
    }
    drop(queue);
    support::only_me();
    support::nothing_left();
}

#[test]
fn a_join_comes_back_wherever_a_process_is_killed() {
    let _alone = alone("a_join_comes_back_wherever_a_process_is_killed");
    let points = |name: &&&str| {
        ["tasks.", "queue.task_done.", "queue.get.a", "queue.get.c"]
            .iter()
            .any(|floor| name.starts_with(floor))
    };
    for name in failpoint::ALL.iter().filter(points) {
        for nth in [1, 2, 4] {
            at(&format!("{name}, time {nth}"));
            let queue = Queue::joinable(arena(), "tasks", None).unwrap();
            let passed_on = Queue::new(arena(), "passed on", None).unwrap();
            // Three are passed on, and three are done by the process that takes them.
            put_tasks(&queue, 6);
            dies_with_tasks(&queue, 1, 0);
            let armed = |life: &dyn Fn()| {
                child(|| {
                    failpoint::arm(name, nth);
                    life();
                })
            };
            let takes = armed(&|| {
                for number in 0..5 {
                    take(&queue);
                    if number % 2 == 0 {
                        passed_on.put(0, b"task", Wait::FOREVER).unwrap();
                    } else {
                        queue.task_done().unwrap();
                    }
                }
            });
            let joins =
                armed(&|| while let Err(QueueJoinError::Lost(_)) = queue.join(within(20)) {});
            let does = armed(&|| {
                while passed_on.get(&mut Vec::new(), within(20)).is_ok() {
                    let _ = queue.task_done();
                }
            });
            for child in [takes, joins, does] {
                let status = child.join();
                let killed = status == ExitStatus::Signaled(SIGKILL);
                assert!(killed || status == ExitStatus::Exited(0), "{status:?}");
            }
            // The processes that took tasks are all gone: what is left of theirs is told.
            loop {
                while queue.try_get(&mut Vec::new(), None).unwrap().is_some() {
                    // One that was passed on and lost may have been done in place of this one.
                    let _ = queue.task_done();
                }
                match queue.join(Wait::FOREVER) {
                    Ok(()) => break,
                    Err(QueueJoinError::Lost(_)) => {}
                    Err(QueueJoinError::PerhapsLost(open)) => {
                        assert!((1..=6).contains(&open));
                        let _ = queue.task_done();
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            // And the next loss as well.
            put_tasks(&queue, 1);
            dies_with_tasks(&queue, 1, 0);
            assert_eq!(queue.join(Wait::FOREVER), Err(QueueJoinError::Lost(1)));
            drop((queue, passed_on));
            support::only_me();
            support::nothing_left();
        }
    }
}

#[test]
fn a_task_that_another_called_done_hides_no_loss_once_it_was_taken() {
    let _alone = alone("a_task_that_another_called_done_hides_no_loss_once_it_was_taken");
    let queue = Queue::joinable(arena(), "tasks", None).unwrap();
    put_tasks(&queue, 2);
    dies_with_tasks(&queue, 1, 0);
    assert_eq!(queue.join(within(20)), Err(QueueJoinError::Lost(1)));
    // As of a process that the lost one was passed on to: it counts for the other.
    queue.task_done().unwrap();
    assert_eq!(queue.join(within(20)), Err(QueueJoinError::PerhapsLost(1)));
    take(&queue);
    assert!(queue.task_done().is_err());
    put_tasks(&queue, 1);
    dies_with_tasks(&queue, 1, 0);
    assert_eq!(queue.join(within(20)), Err(QueueJoinError::Lost(1)));
}

#[test]
fn survivors_go_on_whenever_a_process_is_killed() {
    let _alone = alone("survivors_go_on_whenever_a_process_is_killed");
    let seed = 0x5eed_0001;
    println!("seed {seed:#x}");
    let mut random = Random(seed);
    for round in 0..100 {
        at(&format!("round {round}"));
        let scenario = Scenario::new((round % 2 == 1).then_some(8));
        let mut players = Vec::new();
        for number in 0..3 {
            for role in ROLES {
                if number == 0 || !matches!(role, Role::Burier | Role::Allocator) {
                    players.push((role, number, child(|| scenario.play(role, number))));
                }
            }
        }
        for _ in 0..1 + random.below(6) {
            micros(random.below(3000));
            let (role, number, victim) = &players[random.below(players.len() as u64) as usize];
            // One of each of the roles that others wait for is left.
            if *number > 0 || *role != Role::Consumer {
                victim.kill();
            }
        }
        let (killed, told) = scenario.judge(players);
        let lockers = killed.iter().filter(|(role, _)| *role == Role::Locker).count() as u64;
        assert!(told <= lockers, "more deaths told than died");
    }
}

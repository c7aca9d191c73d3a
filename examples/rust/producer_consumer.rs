//! Several producers, several consumers, one queue between them.
//!
//! Each producer puts numbers; each consumer takes them until it gets a sentinel. Once the
//! producers are done, one sentinel is put for each consumer. The totals show that nothing was lost
//! or doubled.
//!
//! `cargo run --release --example producer_consumer [PRODUCERS] [CONSUMERS] [NUMBERS]`

use std::error::Error;
use std::time::Instant;

use procession::{Builder, Queue};
use serde::{Deserialize, Serialize};

/// What goes through the queue.
#[derive(Serialize, Deserialize)]
enum Item {
    Number {
        producer: u64,
        number: u64,
    },
    /// There will be no more for the consumer that takes this.
    End,
}

/// What a producer put, or a consumer took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Totals {
    items: u64,
    sum: u64,
}

impl Totals {
    fn count(&mut self, number: u64) {
        self.items += 1;
        self.sum += number;
    }

    fn add(self, other: Self) -> Self {
        Self { items: self.items + other.items, sum: self.sum + other.sum }
    }
}

fn produce((queue, producer, numbers): (Queue<Item>, u64, u64)) -> Totals {
    let mut totals = Totals::default();
    for number in 0..numbers {
        queue.put(Item::Number { producer, number }).expect("room in shared memory");
        totals.count(number);
    }
    totals
}

fn consume(queue: Queue<Item>) -> Totals {
    let mut totals = Totals::default();
    let mut last = Vec::new();
    while let Item::Number { producer, number } = queue.get().expect("an item") {
        let producer = producer as usize;
        if last.len() <= producer {
            last.resize(producer + 1, None);
        }
        assert!(last[producer] < Some(number), "what a producer puts keeps its order");
        last[producer] = Some(number);
        totals.count(number);
    }
    totals
}

fn main() -> Result<(), Box<dyn Error>> {
    procession::init();
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let mut next = |default| arguments.next().unwrap_or(Ok(default));
    let (producers, consumers, numbers) = (next(3)?, next(3)?, next(200_000)?);

    let begun = Instant::now();
    let queue = Queue::named("items", None)?;
    let consumers = (0..consumers)
        .map(|n| Builder::new().name(format!("consumer {n}")).spawn(consume, queue.clone()))
        .collect::<Result<Vec<_>, _>>()?;
    let producers = (0..producers)
        .map(|n| {
            let work = (queue.clone(), n, numbers);
            Builder::new().name(format!("producer {n}")).spawn(produce, work)
        })
        .collect::<Result<Vec<_>, _>>()?;

    let mut put = Totals::default();
    for producer in producers {
        let name = producer.name().to_owned();
        let totals = producer.join()?;
        println!("{name} put {} items", totals.items);
        put = put.add(totals);
    }
    queue.put_many(consumers.iter().map(|_| Item::End))?;
    let mut got = Totals::default();
    for consumer in consumers {
        let name = consumer.name().to_owned();
        let totals = consumer.join()?;
        println!("{name} took {} items", totals.items);
        got = got.add(totals);
    }

    let seconds = begun.elapsed().as_secs_f64();
    println!("{} items in {seconds:.2} s, sum {}", got.items, got.sum);
    if got != put || !queue.is_empty() {
        return Err(format!("put {put:?}, took {got:?}, {} are left", queue.len()).into());
    }
    println!("nothing was lost");
    Ok(())
}

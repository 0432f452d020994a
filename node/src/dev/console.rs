//! The words that `kvasir dev` takes on standard input.

use std::collections::BTreeSet;
use std::time::Duration;

use super::links;
use crate::config::Duration as Written;
use crate::faults::DELAY_MAX_MS;

/// One command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// SIGKILL: the node loses what it did not sync.
    Kill(usize),
    /// Start a node that does not run.
    Start(usize),
    /// SIGSTOP: the node hangs, its connections stay.
    Pause(usize),
    /// SIGCONT.
    Resume(usize),
    /// Frames between these sides are lost.
    Partition(Vec<BTreeSet<usize>>),
    /// What the node sends is so late.
    Slow(usize, Duration),
    /// The end of partitions and delays.
    Heal,
    /// One more node joins, and is given its share of the data.
    Add,
    /// A node gives its data to the others and leaves.
    Remove(usize),
    /// A story that shows how something works.
    Lesson(Lesson),
    /// Nodes and the state of the cluster.
    Status,
    /// What can be typed.
    Help,
    /// Stop everything.
    Quit,
}

/// What can be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lesson {
    /// Two sides of a partition write; the conflict is shown and resolved.
    Siblings,
}

/// What can be typed.
pub const HELP: &str = "\
  kill N              kill node N at once (SIGKILL)
  start N             start node N again, with its data
  pause N             stop node N without telling anyone (SIGSTOP)
  resume N            let node N go on (SIGCONT)
  partition 0 | 1,2   cut the network between these sides; a node that is not named is on one more side
  slow N 200ms        everything that node N sends to other nodes is so late; 0ms ends it
  heal                whole and fast links again
  add                 one more node joins and is given its share of the data
  remove N            node N gives its data to the others, leaves and stops
  lesson siblings     a partition, writes on both sides, the conflict shown and resolved
  status              nodes, and whether the data is safe
  help                this list
  quit                stop all nodes";

/// Reads a line; `nodes` are the numbers that there are. Blank lines are nothing.
pub fn parse(line: &str, nodes: &BTreeSet<usize>) -> Result<Option<Command>, String> {
    let (word, rest) = line.trim().split_once(char::is_whitespace).unwrap_or((line.trim(), ""));
    let rest = rest.trim();
    let alone = |command| match rest {
        "" => Ok(command),
        extra => Err(format!("`{word}` takes nothing after it, not `{extra}`")),
    };
    let command = match word {
        "" => return Ok(None),
        "kill" => Command::Kill(node(word, rest, nodes)?),
        "start" => Command::Start(node(word, rest, nodes)?),
        "pause" => Command::Pause(node(word, rest, nodes)?),
        "resume" => Command::Resume(node(word, rest, nodes)?),
        "partition" => Command::Partition(links::sides(rest, nodes)?),
        "slow" => slow(rest, nodes)?,
        "heal" => alone(Command::Heal)?,
        "add" => alone(Command::Add)?,
        "remove" => Command::Remove(node(word, rest, nodes)?),
        "lesson" if rest == "siblings" => Command::Lesson(Lesson::Siblings),
        "lesson" => return Err("which lesson? there is: lesson siblings".into()),
        "status" => alone(Command::Status)?,
        "help" | "?" => alone(Command::Help)?,
        "quit" | "exit" => alone(Command::Quit)?,
        other => return Err(format!("`{other}` is not known; type help for what is")),
    };
    Ok(Some(command))
}

fn node(word: &str, rest: &str, nodes: &BTreeSet<usize>) -> Result<usize, String> {
    if rest.is_empty() {
        return Err(format!("{word} which node? {}", links::numbers(nodes)));
    }
    let number = rest.parse::<usize>().ok().filter(|number| nodes.contains(number));
    number.ok_or_else(|| format!("there is no node `{rest}`: {}", links::numbers(nodes)))
}

fn slow(rest: &str, nodes: &BTreeSet<usize>) -> Result<Command, String> {
    let (number, late) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let number = node("slow", number, nodes)?;
    if late.is_empty() {
        return Err(format!("how late? as in `slow {number} 200ms`"));
    }
    let late = late.parse::<Written>()?;
    match late.as_millis() <= DELAY_MAX_MS {
        true => Ok(Command::Slow(number, late.0)),
        false => Err(format!("at most {DELAY_MAX_MS}ms: later than that is `partition {number}`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str, nodes: usize) -> Result<Option<Command>, String> {
        super::parse(line, &(0..nodes).collect())
    }

    #[test]
    fn commands() {
        assert_eq!(parse("  kill 2 ", 3), Ok(Some(Command::Kill(2))));
        assert_eq!(parse("start 0", 3), Ok(Some(Command::Start(0))));
        assert_eq!(parse("pause 1", 3), Ok(Some(Command::Pause(1))));
        assert_eq!(parse("resume 1", 3), Ok(Some(Command::Resume(1))));
        let sides = vec![BTreeSet::from([0]), BTreeSet::from([1, 2])];
        assert_eq!(parse("partition 0 | 1,2", 3), Ok(Some(Command::Partition(sides.clone()))));
        assert_eq!(parse("partition 0", 3), Ok(Some(Command::Partition(sides))));
        let late = Duration::from_millis(200);
        assert_eq!(parse("slow 2  200ms", 3), Ok(Some(Command::Slow(2, late))));
        assert_eq!(parse("heal", 3), Ok(Some(Command::Heal)));
        assert_eq!(parse("add", 3), Ok(Some(Command::Add)));
        assert_eq!(parse("remove 1", 3), Ok(Some(Command::Remove(1))));
        let lesson = Command::Lesson(Lesson::Siblings);
        assert_eq!(parse("lesson siblings", 3), Ok(Some(lesson)));
        assert_eq!(parse("status", 3), Ok(Some(Command::Status)));
        assert_eq!(parse("exit", 3), Ok(Some(Command::Quit)));
        assert_eq!(parse("   ", 3), Ok(None));
    }

    #[test]
    fn mistakes_are_told() {
        for bad in ["kill", "kill 3", "kill -1", "kill x", "kill 1 2", "quit 1", "heal 1", "slow"] {
            assert!(parse(bad, 3).is_err(), "{bad}");
        }
        for bad in ["slow 3 1s", "slow 1", "slow 1 1", "slow 1 11s", "lesson", "lesson x", "break"]
        {
            assert!(parse(bad, 3).is_err(), "{bad}");
        }
        assert!(parse("kill 3", 3).unwrap_err().contains("0 to 2"));
        assert!(parse("add 1", 3).is_err() && parse("remove", 3).is_err());
        let holes = BTreeSet::from([0, 2]);
        assert!(super::parse("kill 1", &holes).unwrap_err().contains("they are 0, 2"));
    }

    #[test]
    fn every_word_of_the_help_is_known() {
        for line in HELP.lines() {
            let shown = line.trim().split_once("  ").unwrap().0.replace('N', "0");
            assert!(parse(&shown, 3).is_ok(), "{shown}");
        }
    }
}

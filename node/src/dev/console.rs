//! The words that `kvasir dev` takes on standard input.

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
    /// Nodes and the state of the cluster.
    Status,
    /// What can be typed.
    Help,
    /// Stop everything.
    Quit,
}

/// What can be typed.
pub const HELP: &str = "\
  kill N      kill node N at once (SIGKILL)
  start N     start node N again, with its data
  pause N     stop node N without telling anyone (SIGSTOP)
  resume N    let node N go on (SIGCONT)
  status      nodes, and whether the data is safe
  help        this list
  quit        stop all nodes";

/// Reads a line; `nodes` is how many there are, numbered from 0. Blank lines are nothing.
pub fn parse(line: &str, nodes: usize) -> Result<Option<Command>, String> {
    let mut words = line.split_whitespace();
    let Some(word) = words.next() else { return Ok(None) };
    let argument = words.next();
    if let Some(extra) = words.next() {
        return Err(format!("`{extra}` is one word too many"));
    }
    let node = || -> Result<usize, String> {
        let text = argument.ok_or(format!("which node? {word} 0 to {word} {}", nodes - 1))?;
        let number = text.parse::<usize>().ok().filter(|number| *number < nodes);
        number.ok_or(format!("there is no node `{text}`: they are 0 to {}", nodes - 1))
    };
    let alone = |command| match argument {
        Some(extra) => Err(format!("`{word}` takes nothing after it, not `{extra}`")),
        None => Ok(command),
    };
    let command = match word {
        "kill" => Command::Kill(node()?),
        "start" => Command::Start(node()?),
        "pause" => Command::Pause(node()?),
        "resume" => Command::Resume(node()?),
        "status" => alone(Command::Status)?,
        "help" | "?" => alone(Command::Help)?,
        "quit" | "exit" => alone(Command::Quit)?,
        other => return Err(format!("`{other}` is not known; type help for what is")),
    };
    Ok(Some(command))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands() {
        assert_eq!(parse("  kill 2 ", 3), Ok(Some(Command::Kill(2))));
        assert_eq!(parse("start 0", 3), Ok(Some(Command::Start(0))));
        assert_eq!(parse("pause 1", 3), Ok(Some(Command::Pause(1))));
        assert_eq!(parse("resume 1", 3), Ok(Some(Command::Resume(1))));
        assert_eq!(parse("status", 3), Ok(Some(Command::Status)));
        assert_eq!(parse("exit", 3), Ok(Some(Command::Quit)));
        assert_eq!(parse("   ", 3), Ok(None));
    }

    #[test]
    fn mistakes_are_told() {
        for bad in ["kill", "kill 3", "kill -1", "kill x", "kill 1 2", "quit 1", "heal"] {
            assert!(parse(bad, 3).is_err(), "{bad}");
        }
        assert!(parse("kill 3", 3).unwrap_err().contains("0 to 2"));
    }

    #[test]
    fn every_word_of_the_help_is_known() {
        for line in HELP.lines() {
            let word = line.split_whitespace().next().unwrap();
            let known = parse(word, 1).is_ok() || parse(&format!("{word} 0"), 1).is_ok();
            assert!(known, "{word}");
        }
    }
}

//! Branches, calls and the ends of threads (PTX ISA, "Control Flow Instructions").

use crate::count::Class;
use crate::decode::{Decoder, Modifiers, Unsupported};
use crate::fault::Problem;
use crate::machine::{Stop, Waiting};
use crate::ops::Form;
use crate::ops::value::operands;
use crate::program::{Action, AnyReg, Call, CallTarget, Place};
use crate::ptx::ast::{Instruction, Operand, Symbol, Targets};

pub(crate) const FORMS: &[Form] = &[
    Form { name: "bra", syntax: "bra{.uni} label", class: Class::Control, decode: branch },
    Form {
        name: "brx.idx",
        syntax: "brx.idx{.uni} index, targets",
        class: Class::Control,
        decode: branch_indexed,
    },
    Form {
        name: "call",
        syntax: "call{.uni} (results), function or register, (arguments){, prototype or targets}",
        class: Class::Control,
        decode: call,
    },
    Form { name: "ret", syntax: "ret{.uni}", class: Class::Control, decode: ret },
    Form { name: "exit", syntax: "exit", class: Class::Control, decode: |_, i| alone(i, Action::Exit) },
    Form { name: "trap", syntax: "trap", class: Class::Control, decode: trap },
    Form { name: "brkpt", syntax: "brkpt", class: Class::Control, decode: trap },
    Form { name: "nanosleep", syntax: "nanosleep.u32 time", class: Class::Control, decode: nanosleep },
];

/// Of `bra` and `ret` all lanes may be said to go the same way, which changes nothing.
fn uniform(instruction: &Instruction, action: Action) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    modifiers.flag("uni");
    modifiers.finish()?;
    Ok(action)
}

fn ret(_: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    if !instruction.operands.is_empty() {
        return Err(operands(0, instruction));
    }
    uniform(instruction, Action::Return)
}

/// An instruction that is its name alone.
fn alone(instruction: &Instruction, action: Action) -> Result<Action, Unsupported> {
    Modifiers::new(instruction).finish()?;
    if !instruction.operands.is_empty() {
        return Err(operands(0, instruction));
    }
    Ok(action)
}

/// Branches name instructions of the body here; where those come to lie is known when all are decoded.
fn branch(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let [Operand::Label(label)] = &instruction.operands[..] else { return Err("operands".into()) };
    uniform(instruction, Action::Branch(decoder.body.labels[label.0 as usize]))
}

fn branch_indexed(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let [index, Operand::Table(table)] = &instruction.operands[..] else { return Err("operands".into()) };
    let mut modifiers = Modifiers::new(instruction);
    modifiers.flag("idx");
    modifiers.flag("uni");
    modifiers.finish()?;
    let found = decoder.body.targets.iter().find(|(name, _)| name == table);
    let Some((_, Targets::Labels(labels))) = found else { return Err(format!("no .branchtargets {table}")) };
    let targets = labels.iter().map(|label| decoder.body.labels[label.0 as usize]).collect();
    Ok(Action::BranchIndexed(decoder.src32(index)?, targets))
}

fn call(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    modifiers.flag("uni");
    modifiers.finish()?;
    let (results, rest) = match &instruction.operands[..] {
        [Operand::List(results), rest @ ..] => (&results[..], rest),
        rest => (&[][..], rest),
    };
    let Some((target, rest)) = rest.split_first() else { return Err("no function".into()) };
    let (arguments, rest) = match rest {
        [Operand::List(arguments), rest @ ..] => (&arguments[..], rest),
        rest => (&[][..], rest),
    };
    let target = match (target, rest) {
        (Operand::Symbol(Symbol::Function(index), 0), []) => {
            let function = &decoder.module.functions[*index];
            if function.body.is_none() {
                return external(&function.name);
            }
            let counts = (function.params.len(), function.returns.len());
            if counts != (arguments.len(), results.len()) {
                return Err(format!("call of {} with other parameters than it has", function.name));
            }
            CallTarget::Function(*index)
        }
        (Operand::Register(_), [Operand::Table(_)]) => CallTarget::Register(decoder.src64(target)?),
        _ => return Err("operands".into()),
    };
    let arguments = arguments.iter().map(|it| place(decoder, it)).collect::<Result<_, _>>()?;
    let results = results.iter().map(|it| place(decoder, it)).collect::<Result<_, _>>()?;
    Ok(Action::Call(Box::new(Call { target, arguments, results })))
}

/// Functions that the CUDA driver provides.
fn external(name: &str) -> Result<Action, Unsupported> {
    match name {
        "__assertfail" => Ok(Action::run(|_| Err(Stop::warp(Problem::Trap("a failed assertion".into()))))),
        _ => Err(format!("call of {name}, which this module only declares")),
    }
}

/// Where an argument or a result of a call lies.
fn place(decoder: &mut Decoder, operand: &Operand) -> Result<Place, Unsupported> {
    if let Operand::Symbol(Symbol::Local(index), 0) = operand {
        return decoder.local_place(*index);
    }
    if let Operand::Register(id) = operand {
        return Ok(Place::Register(decoder.register(*id)));
    }
    match operand {
        Operand::Sink => Ok(Place::Register(AnyReg::B128(decoder.scratch128().index))),
        _ => Ok(Place::Register(AnyReg::B64(decoder.src64(operand)?.index))),
    }
}

fn trap(_: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    alone(instruction, Action::run(|_| Err(Stop::warp(Problem::Trap("the kernel stopped itself".into())))))
}

fn nanosleep(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    modifiers.need("type", &[("u32", ())])?;
    modifiers.finish()?;
    let [time] = &instruction.operands[..] else { return Err(operands(1, instruction)) };
    decoder.src32(time)?;
    Ok(Action::run(|cx| {
        cx.cluster.polls += 1;
        Err(Stop::DoneThenWait(Waiting::Turn))
    }))
}

//! Modules, function by function and instruction by instruction.

use std::collections::HashMap;

use crate::decode::layout::{Common, Layout, Symbols};
use crate::decode::{Decoder, Unsupported};
use crate::error::{LoadError, UnsupportedInstruction};
use crate::lanes::Pred;
use crate::memory::{Constants, GlobalMemory};
use crate::ops::{self, Form};
use crate::order::{Graph, ranks};
use crate::program::{Action, Function, Instruction, Place, Program};
use crate::ptx::ast;

/// Makes a module ready to run: allocates its variables and turns its instructions into what executes them.
pub(crate) fn program(module: &ast::Module, text: &str, memory: &GlobalMemory) -> Result<Program, LoadError> {
    let symbols = Symbols::new(module, memory).map_err(LoadError::Module)?;
    let common = Common::new(module).map_err(LoadError::Module)?;
    let mut errors = Vec::new();
    let mut code = Vec::new();
    let mut functions = Vec::new();
    for function in &module.functions {
        match decode(module, function, &symbols, &common, &mut code) {
            Ok(decoded) => functions.push(decoded),
            Err(found) => errors.extend(found),
        }
    }
    if !errors.is_empty() {
        return Err(LoadError::Unsupported(errors));
    }
    mark_communicating(module, &mut functions);
    let entries = functions.iter().enumerate().filter(|(index, _)| module.functions[*index].entry);
    Ok(Program {
        entries: entries.map(|(index, function)| (function.name.clone(), index)).collect(),
        functions,
        code,
        constants: Constants { bytes: symbols.constants },
        files: module.files.iter().cloned().collect(),
        text: text.lines().map(str::to_owned).collect(),
    })
}

/// Decodes one function; what is unsupported is listed whole.
fn decode(
    module: &ast::Module,
    function: &ast::Function,
    symbols: &Symbols,
    common: &Common,
    code: &mut Vec<Instruction>,
) -> Result<Function, Vec<UnsupportedInstruction>> {
    let empty = ast::Body::default();
    let body = function.body.as_ref().unwrap_or(&empty);
    let whole = |what: String| {
        vec![UnsupportedInstruction { line: function.line, instruction: function.name.clone(), what }]
    };
    let layout = Layout::new(module, function, body, common).map_err(whole)?;
    let start = code.len();
    let mut decoder = Decoder::new(module, function, body, symbols, layout);
    // An instruction may become two; branches go to where the target has come to lie.
    let mut errors = Vec::new();
    let mut actions = Vec::new();
    let mut touches = Vec::with_capacity(body.instructions.len());
    let mut places = Vec::with_capacity(body.instructions.len() + 1);
    for (index, instruction) in body.instructions.iter().enumerate() {
        places.push(actions.len());
        match one(&mut decoder, instruction) {
            Ok((action, form, guard)) => {
                actions.push((index, action, form, guard));
                if let Some(follow) = decoder.follow.take() {
                    actions.push((index, follow, form, guard));
                }
            }
            Err(what) => errors.push(UnsupportedInstruction {
                line: instruction.line,
                instruction: ops::opcode(instruction),
                what,
            }),
        }
        touches.push(decoder.touches(instruction));
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    places.push(actions.len());
    let target = |instruction: usize| start + places[instruction];
    for (index, mut action, form, guard) in actions {
        match &mut action {
            Action::Branch(to) => *to = target(*to),
            Action::BranchIndexed(_, targets) => targets.iter_mut().for_each(|to| *to = target(*to)),
            _ => {}
        }
        let ast::Instruction { line, source, ref name, .. } = body.instructions[index];
        // Products see to their registers themselves.
        let watched = decoder.multiplies && name != "wgmma";
        let touches = watched.then(|| Box::new(touches[index].clone()));
        code.push(Instruction { guard, action, rank: 0, leader: false, form, line, source, touches });
    }
    // A function ends where its text ends.
    let line = body.instructions.last().map_or(function.line, |it| it.line);
    let form = &ops::END;
    code.push(Instruction {
        guard: None,
        action: Action::Return,
        rank: 0,
        leader: false,
        form,
        line,
        source: None,
        touches: None,
    });
    order(&mut code[start..], start);
    Ok(finish(decoder, function, start))
}

fn one(
    decoder: &mut Decoder,
    instruction: &ast::Instruction,
) -> Result<(Action, &'static Form, Option<Pred>), Unsupported> {
    let form = ops::find(instruction).ok_or("no such instruction")?;
    let guard = match instruction.guard {
        None => None,
        Some(ast::Guard { register, negated }) => {
            let operand =
                if negated { ast::Operand::Not(register) } else { ast::Operand::Register(register) };
            Some(decoder.pred(&operand)?)
        }
    };
    let action = (form.decode)(decoder, instruction)?;
    Ok((action, form, guard))
}

fn finish(decoder: Decoder, function: &ast::Function, start: usize) -> Function {
    let params = places(&decoder, &decoder.layout.params, &function.params);
    let returns = places(&decoder, &decoder.layout.returns, &function.returns);
    Function {
        name: function.name.clone(),
        start,
        params,
        returns,
        local_bytes: decoder.layout.local_bytes,
        params_bytes: decoder.layout.params_bytes,
        shared_bytes: decoder.layout.shared_bytes,
        dynamic_shared_align: decoder.layout.dynamic_align,
        required_block: function.required_block,
        max_block: function.max_block,
        registers_per_thread: ops::setmaxnreg::registers_at_start(function),
        required_cluster: function.required_cluster,
        communicates: decoder.communicates,
        fills: decoder.fills,
        registers: decoder.template,
    }
}

/// The places of parameters, those in registers with the registers that they are.
fn places(decoder: &Decoder, places: &[Place], params: &[ast::Param]) -> Vec<Place> {
    let pairs = places.iter().zip(params);
    pairs
        .map(|(place, param)| match (place, param.register) {
            (Place::Register(_), Some(id)) => Place::Register(decoder.register(id)),
            _ => *place,
        })
        .collect()
}

/// Ranks the instructions of a function, and marks where lanes that have parted may meet.
fn order(code: &mut [Instruction], start: usize) {
    let targets = |action: &Action| match action {
        Action::Branch(to) => vec![*to - start],
        Action::BranchIndexed(_, targets) => targets.iter().map(|to| *to - start).collect(),
        _ => Vec::new(),
    };
    let ends = |it: &Instruction| !matches!(it.action, Action::Run(_) | Action::Call(_));
    let mut leader = vec![false; code.len()];
    leader[0] = true;
    for (i, instruction) in code.iter().enumerate() {
        targets(&instruction.action).into_iter().for_each(|to| leader[to] = true);
        let parts = ends(instruction) || matches!(instruction.action, Action::Call(_));
        if parts && i + 1 < code.len() {
            leader[i + 1] = true;
        }
    }
    let starts: Vec<usize> = (0..code.len()).filter(|&i| leader[i]).collect();
    let block_of: HashMap<usize, usize> = starts.iter().enumerate().map(|(block, &at)| (at, block)).collect();
    let next = (0..starts.len()).map(|block| {
        let last = starts.get(block + 1).copied().unwrap_or(code.len()) - 1;
        let mut next: Vec<usize> = targets(&code[last].action).iter().map(|to| block_of[to]).collect();
        let goes_on = !ends(&code[last]) || code[last].guard.is_some();
        if goes_on && block + 1 < starts.len() {
            next.push(block + 1);
        }
        next
    });
    let graph = Graph { next: next.collect() };
    let ranks = ranks(&graph);
    let mut block = 0;
    for (i, instruction) in code.iter_mut().enumerate() {
        if i > 0 && leader[i] {
            block += 1;
        }
        instruction.rank = ranks[block];
        instruction.leader = leader[i];
    }
}

/// An entry communicates when it, or a function it may call, does.
fn mark_communicating(module: &ast::Module, functions: &mut [Function]) {
    let device =
        module.functions.iter().zip(&*functions).any(|(it, function)| !it.entry && function.communicates);
    if device {
        functions.iter_mut().for_each(|function| function.communicates = true);
    }
}

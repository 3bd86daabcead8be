//! Where variables and parameters lie.

use std::collections::{HashMap, HashSet};

use crate::decode::Unsupported;
use crate::memory::{CONST_WINDOW, GlobalMemory, SHARED_WINDOW};
use crate::program::{AnyReg, FUNCTION_BASE, Fill, Place, Value};
use crate::ptx::ast::{Base, Body, Function, Init, Module, Operand, Param, Space, Symbol, Variable};

/// Addresses of the module's `.global` and `.const` variables; 0 for those of other spaces.
pub(crate) struct Symbols {
    pub variables: Vec<u64>,
    /// The bytes of the `.const` variables.
    pub constants: Vec<u8>,
}

/// The address of a function, which only calls understand.
pub(crate) fn function_address(index: usize) -> u64 {
    FUNCTION_BASE + 16 + 16 * index as u64
}

impl Symbols {
    /// Allocates and initialises the module's variables.
    pub fn new(module: &Module, memory: &GlobalMemory) -> Result<Symbols, Unsupported> {
        let global = module.variables.iter().filter(|it| it.space == Space::Global);
        let bytes = global.fold(0u64, |sum, it| sum.saturating_add(it.bytes.unwrap_or(0)));
        if bytes > GLOBAL_LIMIT {
            return Err(format!("{bytes} bytes of global variables (at most {GLOBAL_LIMIT})"));
        }
        let mut constants = 0;
        let mut variables = Vec::new();
        for variable in &module.variables {
            let bytes = variable.bytes.unwrap_or(0);
            variables.push(match variable.space {
                Space::Global => memory.alloc(bytes.max(1)).map_err(|error| error.to_string())?,
                Space::Const => {
                    let address = next_multiple(constants, variable.align);
                    constants = address.saturating_add(bytes);
                    address
                }
                _ => 0,
            });
        }
        if constants > 1 << 26 {
            return Err(format!("{constants} bytes of constant memory"));
        }
        let mut symbols = Symbols { variables, constants: vec![0; constants as usize] };
        for (index, variable) in module.variables.iter().enumerate() {
            symbols.initialise(module, memory, index, variable)?;
        }
        Ok(symbols)
    }

    fn initialise(
        &mut self,
        module: &Module,
        memory: &GlobalMemory,
        index: usize,
        variable: &Variable,
    ) -> Result<(), Unsupported> {
        let bytes = variable.bytes.unwrap_or(0);
        if !matches!(variable.space, Space::Global | Space::Const) || bytes == 0 {
            return Ok(());
        }
        let address = self.variables[index];
        if variable.space == Space::Global {
            memory.fill(address, 0, bytes).map_err(|error| error.to_string())?;
        }
        let mut image = Vec::new();
        for init in &variable.init {
            let value = match init {
                Init::Bits(bits) => *bits,
                Init::Address { name, offset, generic, mask } => {
                    let address = self.address(module, name, *generic)?.wrapping_add(*offset as u64);
                    if *mask == u64::MAX {
                        address
                    } else {
                        (address & mask) >> mask.trailing_zeros().min(63)
                    }
                }
            };
            image.extend_from_slice(&value.to_le_bytes()[..variable.ty.bytes().min(8) as usize]);
            image.resize(image.len() + variable.ty.bytes().saturating_sub(8) as usize, 0);
        }
        if image.len() as u64 > bytes {
            return Err(format!(
                "{} bytes of initial values for the {bytes} of {}",
                image.len(),
                variable.name
            ));
        }
        match variable.space {
            Space::Global => memory.upload(address, &image).map_err(|error| error.to_string()),
            _ => {
                self.constants[address as usize..][..image.len()].copy_from_slice(&image);
                Ok(())
            }
        }
    }

    fn address(&self, module: &Module, name: &str, generic: bool) -> Result<u64, Unsupported> {
        if let Some(index) = module.functions.iter().position(|it| it.name == name) {
            return Ok(function_address(index));
        }
        let found = module.variables.iter().position(|it| it.name == name);
        let index = found.ok_or_else(|| format!("the address of {name}, which is not declared"))?;
        let address = self.variables[index];
        Ok(match module.variables[index].space {
            Space::Const if generic => CONST_WINDOW + address,
            Space::Shared if generic => SHARED_WINDOW + address,
            _ => address,
        })
    }
}

/// Where one function's variables and parameters lie.
#[derive(Default)]
pub(crate) struct Layout {
    /// Of the module's variables, the shared ones that this function or those it calls use.
    shared: HashMap<usize, Value>,
    /// Of the body's variables.
    pub locals: Vec<Value>,
    pub params: Vec<Place>,
    pub returns: Vec<Place>,
    pub params_bytes: u32,
    pub local_bytes: u32,
    pub shared_bytes: u32,
    pub dynamic_align: u32,
}

/// The most bytes of local memory a thread has.
const LOCAL_LIMIT: u64 = 512 * 1024;

/// The most bytes of parameters an entry has.
const PARAMS_LIMIT: u64 = 32_764;

/// The most bytes of shared memory a block of any architecture has.
const SHARED_LIMIT: u64 = 228 * 1024;

/// The most bytes of `.global` variables a module has here: they are memory from the start, being 0.
const GLOBAL_LIMIT: u64 = 1 << 30;

impl Layout {
    /// Lays out a function. `common` are the shared variables that device functions use: they have the same
    /// addresses for every entry, which has its own after them.
    pub fn new(
        module: &Module,
        function: &Function,
        body: &Body,
        common: &Common,
    ) -> Result<Layout, Unsupported> {
        let mut layout = Layout {
            shared: common.shared.clone(),
            dynamic_align: common.dynamic_align,
            ..Layout::default()
        };
        let mut shared = u64::from(common.bytes);
        if function.entry {
            for index in shared_of(module, body) {
                if !layout.shared.contains_key(&index) {
                    let value =
                        place_shared(&module.variables[index], &mut shared, &mut layout.dynamic_align);
                    layout.shared.insert(index, value);
                }
            }
        }
        let mut local = 0;
        layout.params = params(&function.params, function.entry, &mut local);
        if function.entry {
            if local > PARAMS_LIMIT {
                return Err(format!("{local} bytes of parameters (at most {PARAMS_LIMIT})"));
            }
            layout.params_bytes = local as u32;
            local = 0;
        }
        layout.returns = params(&function.returns, false, &mut local);
        for variable in &body.variables {
            layout.locals.push(match variable.space {
                Space::Shared if !function.entry => common
                    .bodies
                    .get(&(function.name.clone(), variable.name.clone(), variable.line))
                    .copied()
                    .unwrap_or(Value::Known(0)),
                Space::Shared => place_shared(variable, &mut shared, &mut layout.dynamic_align),
                Space::Local | Space::Param | Space::Reg => {
                    Value::Filled(Fill::Local(take(&mut local, variable.bytes.unwrap_or(0), variable.align)))
                }
                Space::Global | Space::Const => {
                    return Err(format!(
                        "variable {} of space {:?} in a function",
                        variable.name, variable.space
                    ));
                }
            });
        }
        if local > LOCAL_LIMIT {
            return Err(format!("{local} bytes of local memory (at most {LOCAL_LIMIT})"));
        }
        layout.local_bytes = next_multiple(local, 16) as u32;
        layout.shared_bytes = shared_bytes(shared)?;
        Ok(layout)
    }

    /// The address of a variable of the module.
    pub fn variable(&self, symbols: &Symbols, index: usize) -> Value {
        self.shared.get(&index).copied().unwrap_or(Value::Known(symbols.variables[index]))
    }
}

fn shared_bytes(bytes: u64) -> Result<u32, Unsupported> {
    if bytes > SHARED_LIMIT {
        return Err(format!("{bytes} bytes of shared memory (at most {SHARED_LIMIT})"));
    }
    Ok(bytes as u32)
}

/// Shared variables that device functions use.
#[derive(Default)]
pub(crate) struct Common {
    shared: HashMap<usize, Value>,
    /// Those of the bodies of device functions: by function, name and line.
    bodies: HashMap<(String, String, u32), Value>,
    bytes: u32,
    dynamic_align: u32,
}

impl Common {
    pub fn new(module: &Module) -> Result<Common, Unsupported> {
        let mut common = Common { dynamic_align: 16, ..Common::default() };
        let mut bytes = 0;
        for function in module.functions.iter().filter(|it| !it.entry) {
            let Some(body) = &function.body else { continue };
            for index in shared_of(module, body) {
                if !common.shared.contains_key(&index) {
                    let value = place_shared(&module.variables[index], &mut bytes, &mut common.dynamic_align);
                    common.shared.insert(index, value);
                }
            }
            for variable in body.variables.iter().filter(|it| it.space == Space::Shared) {
                let value = place_shared(variable, &mut bytes, &mut common.dynamic_align);
                common.bodies.insert((function.name.clone(), variable.name.clone(), variable.line), value);
            }
        }
        common.bytes = shared_bytes(bytes)?;
        Ok(common)
    }
}

/// The module's shared variables that a body refers to, in order.
fn shared_of(module: &Module, body: &Body) -> Vec<usize> {
    let mut found = HashSet::new();
    let mut operands: Vec<&Operand> = body.instructions.iter().flat_map(|it| &it.operands).collect();
    while let Some(operand) = operands.pop() {
        match operand {
            Operand::Symbol(Symbol::Global(index), _)
            | Operand::Address(Base::Symbol(Symbol::Global(index)), _)
            | Operand::TensorAddress(Base::Symbol(Symbol::Global(index)), ..) => {
                found.insert(*index);
            }
            Operand::Vector(inner) | Operand::List(inner) => operands.extend(inner),
            Operand::Pair(a, b) => operands.extend([&**a, &**b]),
            _ => {}
        }
    }
    let mut found: Vec<usize> =
        found.into_iter().filter(|&index| module.variables[index].space == Space::Shared).collect();
    found.sort_unstable();
    found
}

fn place_shared(variable: &Variable, bytes: &mut u64, dynamic_align: &mut u32) -> Value {
    match variable.bytes {
        Some(size) => Value::Known(take(bytes, size, variable.align)),
        None => {
            *dynamic_align = (*dynamic_align).max(variable.align.clamp(16, 1 << 16) as u32);
            Value::Filled(Fill::DynamicShared(0))
        }
    }
}

/// Lays out formal parameters, of which those in registers take no memory.
fn params(params: &[Param], entry: bool, end: &mut u64) -> Vec<Place> {
    let mut places = Vec::new();
    for param in params {
        places.push(match (param.space, param.register) {
            (Space::Reg, Some(_)) if !entry => Place::Register(AnyReg::B32(0)),
            _ => Place::Memory {
                offset: take(end, param.bytes, param.align) as u32,
                bytes: param.bytes as u32,
            },
        });
    }
    places
}

fn take(end: &mut u64, bytes: u64, align: u64) -> u64 {
    let start = next_multiple(*end, align);
    *end = start.saturating_add(bytes);
    start
}

fn next_multiple(value: u64, of: u64) -> u64 {
    value.checked_next_multiple_of(of.max(1)).unwrap_or(u64::MAX)
}

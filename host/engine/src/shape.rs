//! What a component is made of, counted before it is compiled.
//!
//! A compiler's time and memory grow faster than its input: a few hundred kilobytes of nested blocks, of functions
//! that do nothing, or of components that hold each other twice keep it busy for hours or take all the memory there is.
//! What compilers of programs write stays far below these bounds, Python and JavaScript with their engines included.

use std::fmt;

use althing_core::{Error, Kind, Result, limits};
use wasmparser::{
    BinaryReaderError, BlockType, ComponentInstance, CompositeInnerType, ElementItems, FunctionBody,
    Instance, Operator, Parser, Payload,
};

/// Refuses a component that nobody should compile. `TooLarge` names what there is too much of, and how much may be;
/// `Invalid` is for bytes that are no component to their end.
pub(crate) fn check(component: &[u8]) -> Result<()> {
    let mut shape = Shape::default();
    for payload in Parser::new(0).parse_all(component) {
        payload.and_then(|payload| shape.add(payload)).map_err(damaged)?;
        shape.check()?;
    }
    Ok(())
}

fn damaged(error: BinaryReaderError) -> Error {
    Error::new(Kind::Invalid, "load policy", "the component is damaged")
        .because(error.to_string().escape_debug().to_string())
        .advise("Build it again, or fetch it again from where it was built")
}

/// What was counted so far.
#[derive(Default)]
struct Shape {
    modules: usize,
    functions: usize,
    types: usize,
    elements: usize,
    names: usize,
    /// The modules and components that are open, outermost first.
    open: Vec<Part>,
    /// The most instances that one of the components so far comes to, with all that it holds.
    heaviest: usize,
    instances: usize,
    branches: usize,
    values: usize,
}

/// A module or component, while it is read.
#[derive(Default)]
struct Part {
    /// What it comes to when it is instantiated.
    instances: usize,
    /// How many values each function type of a module takes and gives.
    arities: Vec<usize>,
    /// The arity of each function whose body is still to come, the last one first.
    bodies: Vec<usize>,
}

impl Shape {
    fn add(&mut self, payload: Payload<'_>) -> Result<(), BinaryReaderError> {
        match payload {
            Payload::Version { .. } => self.open.push(Part::default()),
            Payload::End(_) => self.close(),
            Payload::ModuleSection { .. } => self.modules += 1,
            Payload::TypeSection(types) => {
                for group in types {
                    for kind in group?.types() {
                        self.types += 1;
                        self.part().arities.push(arity(&kind.composite_type.inner));
                    }
                }
            }
            Payload::FunctionSection(functions) => {
                self.functions += functions.count() as usize;
                let part = self.part();
                for kind in functions {
                    let arity = part.arities.get(kind? as usize).copied().unwrap_or(0);
                    part.bodies.push(arity);
                }
                part.bodies.reverse();
            }
            Payload::CodeSectionEntry(body) => self.add_body(&body)?,
            Payload::ElementSection(segments) => {
                for segment in segments {
                    self.elements += match segment?.items {
                        ElementItems::Functions(items) => items.count(),
                        ElementItems::Expressions(_, items) => items.count(),
                    } as usize;
                }
            }
            Payload::InstanceSection(instances) => {
                for instance in instances {
                    let is_new = !matches!(instance?, Instance::FromExports(_));
                    self.part().instances += usize::from(is_new);
                }
            }
            Payload::ComponentInstanceSection(instances) => {
                // Which component it is of would take following every alias: none is heavier than this.
                let heaviest = 1 + self.heaviest;
                for instance in instances {
                    let is_new = !matches!(instance?, ComponentInstance::FromExports(_));
                    let part = self.part();
                    part.instances = part.instances.saturating_add(if is_new { heaviest } else { 0 });
                }
            }
            other => self.add_names(&other),
        }
        Ok(())
    }

    fn add_names(&mut self, payload: &Payload<'_>) {
        let (types, names) = match payload {
            Payload::ComponentTypeSection(section) => (section.count(), 0),
            Payload::CoreTypeSection(section) => (section.count(), 0),
            Payload::ImportSection(section) => (0, section.count()),
            Payload::ExportSection(section) => (0, section.count()),
            Payload::GlobalSection(section) => (0, section.count()),
            Payload::DataSection(section) => (0, section.count()),
            Payload::ComponentAliasSection(section) => (0, section.count()),
            Payload::ComponentCanonicalSection(section) => (0, section.count()),
            Payload::ComponentImportSection(section) => (0, section.count()),
            Payload::ComponentExportSection(section) => (0, section.count()),
            _ => (0, 0),
        };
        self.types += types as usize;
        self.names += names as usize;
    }

    /// Counts the branches of a function, and how many values they hand on at most: each may hand on every local.
    fn add_body(&mut self, body: &FunctionBody<'_>) -> Result<(), BinaryReaderError> {
        let part = self.part();
        let mut locals = part.bodies.pop().unwrap_or(0);
        for group in body.get_locals_reader()? {
            locals = locals.saturating_add(group?.0 as usize);
        }
        let (mut branches, mut values) = (0_usize, 0_usize);
        for operator in body.get_operators_reader()? {
            let (count, given) = match operator? {
                Operator::Block { blockty } | Operator::Loop { blockty } | Operator::If { blockty } => {
                    (1, given(part, blockty))
                }
                Operator::Else | Operator::Br { .. } | Operator::BrIf { .. } => (1, 0),
                Operator::BrTable { targets } => (targets.len() as usize, 0),
                _ => continue,
            };
            branches = branches.saturating_add(count);
            values = values.saturating_add(locals + given);
        }
        self.branches = self.branches.max(branches);
        self.values = self.values.max(values);
        Ok(())
    }

    fn part(&mut self) -> &mut Part {
        if self.open.is_empty() {
            self.open.push(Part::default());
        }
        let last = self.open.len() - 1;
        &mut self.open[last]
    }

    fn close(&mut self) {
        let instances = self.open.pop().map_or(0, |part| part.instances);
        self.heaviest = self.heaviest.max(instances);
        self.instances = self.instances.max(instances);
    }

    fn check(&self) -> Result<()> {
        let rows = [
            ("core modules", self.modules, limits::GUEST_MODULES_MAX),
            ("functions", self.functions, limits::GUEST_FUNCTIONS_MAX),
            ("types", self.types, limits::GUEST_TYPES_MAX),
            ("elements of tables", self.elements, limits::GUEST_ELEMENTS_MAX),
            ("imports, exports, globals and the like", self.names, limits::GUEST_NAMES_MAX),
            ("components in one another", self.open.len(), limits::GUEST_NESTING_MAX),
            ("instances", self.instances, limits::GUEST_INSTANCES_MAX),
            ("branches in one function", self.branches, limits::GUEST_BRANCHES_MAX),
            ("values at the branches of one function", self.values, limits::GUEST_BRANCH_VALUES_MAX),
        ];
        match rows.into_iter().find(|(_, count, max)| count > max) {
            Some((what, count, max)) => Err(too_many(what, count, max)),
            None => Ok(()),
        }
    }
}

fn too_many(what: &str, count: impl fmt::Display, max: usize) -> Error {
    let message = format!("the component has {count} {what} or more; at most {max}");
    Error::new(Kind::TooLarge, "load policy", message)
        .advise("Such a component takes too long to compile: build it for size, or split the policy")
}

fn given(part: &Part, block: BlockType) -> usize {
    match block {
        BlockType::FuncType(index) => part.arities.get(index as usize).copied().unwrap_or(0),
        BlockType::Empty | BlockType::Type(_) => 1,
    }
}

fn arity(kind: &CompositeInnerType) -> usize {
    match kind {
        CompositeInnerType::Func(function) => function.params().len() + function.results().len(),
        _ => 0,
    }
}

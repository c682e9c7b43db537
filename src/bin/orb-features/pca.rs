//! The options of the PCA.

use std::fs;
use std::path::{Component, Path, PathBuf};

use clap::Args;
use orb_features::features::VectorFormat;
use orb_features::pca::{Components, DEFAULT_SEED};
use orb_features::prelude::*;

use crate::choices::names;
use crate::exit::Exit;
use crate::place::{Place, looks_like_s3};

/// Most symbolic links that Linux follows in one path.
const MAX_LINKS: u32 = 40;

#[derive(Args)]
pub struct PcaArgs {
    /// Number of principal components, at most the length of a vector, or the share of the variance that they are to
    /// explain, such as 0.95 [default: 20; embed: none].
    #[arg(long, short = 'k', value_name = "K|SHARE", conflicts_with_all = ["no_pca", "model"])]
    pca: Option<Components>,
    /// What of a vector the PCA is fitted to: its bytes (or floats), or the bits of its bytes as numbers 0 and 1, whose
    /// distances are Hamming distances [default: bytes].
    #[arg(long, conflicts_with = "model", value_parser = names(PcaInput::ALL, PcaInput::as_str))]
    pca_input: Option<PcaInput>,
    /// Write no principal components.
    #[arg(long, conflicts_with_all = ["solver", "seed", "center", "save_model", "model", "pca_input"])]
    no_pca: bool,
    /// Solver that finds the components [default: randomized].
    #[arg(long, conflicts_with = "model",
          value_parser = names([Solver::default(), Solver::Covariance, Solver::Auto { seed: 0 }], Solver::as_str))]
    solver: Option<Solver>,
    /// Seed of the randomized solver; the other solvers take none [default: 0].
    #[arg(long, value_name = "N", conflicts_with = "model")]
    seed: Option<u64>,
    /// Subtract the mean before projecting (scikit-learn), or not (Spark) [default: mean].
    #[arg(long, value_parser = names(Centering::ALL, Centering::as_str))]
    center: Option<Centering>,
    /// Write the fitted model to a JSON file.
    #[arg(long, value_name = "FILE", conflicts_with = "model")]
    pub save_model: Option<PathBuf>,
    /// Project onto the model of this JSON file instead of fitting one.
    #[arg(long, value_name = "FILE")]
    pub model: Option<PathBuf>,
}

/// Whether vectors are projected, and onto which components.
pub enum Scores {
    None,
    Fit(PcaParams),
    Model(Box<PcaModel>),
}

impl PcaArgs {
    /// Refuses files that cannot be meant: before anything is connected to or read.
    pub fn check_files(&self, output: &Place) -> Result<(), Exit> {
        for (name, path) in [("--model", &self.model), ("--save-model", &self.save_model)] {
            if let Some(path) = path.as_ref().and_then(|p| p.to_str()).filter(|p| looks_like_s3(p))
            {
                return Err(Exit::usage(&format!("{name} {path}: the model is a local file")));
            }
        }
        let Some(path) = &self.save_model else { return Ok(()) };
        // Checked now rather than after a long job.
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let file = path.display();
        if !folder.is_dir() {
            let why = format!("--save-model {file}: there is no folder {}", folder.display());
            return Err(Exit::usage(&why));
        }
        if path.is_dir() || path.as_os_str().as_encoded_bytes().ends_with(b"/") {
            return Err(Exit::usage(&format!("--save-model {file}: this is a folder")));
        }
        if let Place::Folder(out) = output
            && is_inside(path, out)
        {
            let out = out.display();
            let why = format!(
                "--save-model {file}: it would be a file in {out} that is not part of a result, which \
                 is then not overwritten any more: name a file elsewhere"
            );
            return Err(Exit::usage(&why));
        }
        Ok(())
    }

    /// What the options make of vectors of this format and origin, as far as these are known. `default` is the number of
    /// components if no option says it; none is no PCA.
    pub fn scores(
        &self,
        of: Option<(VectorFormat, &Origin)>,
        default: Option<usize>,
        force: bool,
    ) -> Result<Scores, Exit> {
        let input = self.pca_input.unwrap_or_default();
        if let Some(path) = &self.model {
            let file = path.display();
            let model = PcaModel::load(path)?;
            if let Some((format, origin)) = of {
                if let Err(Error::Model { reason, .. }) = model.check_format(format) {
                    return Err(Exit::usage(&format!("--model {file}: {reason}")));
                }
                if !force && let Err(Error::Model { reason, .. }) = model.check_origin(origin) {
                    let why = format!("--model {file}: {reason} (--force takes it all the same)");
                    return Err(Exit { message: why, status: 1 });
                }
            }
            let centering = self.center.unwrap_or(model.centering());
            return Ok(Scores::Model(Box::new(model.with_centering(centering))));
        }
        let Some(components) =
            self.pca.or(default.map(Components::Number)).filter(|_| !self.no_pca)
        else {
            return match self.without_effect() {
                Some(name) => Err(Exit::usage(&format!("{name} is for --pca"))),
                None => Ok(Scores::None),
            };
        };
        let given = [("--solver", self.solver.is_some()), ("--seed", self.seed.is_some())];
        if let (Components::Share(_), Some((name, _))) =
            (components, given.into_iter().find(|(_, is_given)| *is_given))
        {
            let why =
                format!("{name} has no part in --pca {components}: a share takes all components");
            return Err(Exit::usage(&why));
        }
        let params = PcaParams::of(components)
            .with_solver(self.solver()?)
            .with_centering(self.center.unwrap_or_default())
            .with_input(input);
        if let Some((format, _)) = of {
            params.check_for(format)?;
        }
        Ok(Scores::Fit(params))
    }

    /// An option that has no effect without a fit or a model.
    fn without_effect(&self) -> Option<&'static str> {
        let given = [
            ("--solver", self.solver.is_some()),
            ("--seed", self.seed.is_some()),
            ("--center", self.center.is_some()),
            ("--save-model", self.save_model.is_some()),
            ("--pca-input", self.pca_input.is_some()),
        ];
        given.into_iter().find(|(_, is_given)| *is_given).map(|(name, _)| name)
    }

    fn solver(&self) -> Result<Solver, Exit> {
        let seed = self.seed.unwrap_or(DEFAULT_SEED);
        match self.solver {
            None | Some(Solver::Randomized { .. }) => Ok(Solver::seeded(seed)),
            Some(Solver::Covariance) if self.seed.is_some() => {
                Err(Exit::usage("--seed has no part in --solver covariance"))
            }
            // `auto` may choose covariance, which takes no seed; this is known only at the end.
            Some(Solver::Auto { .. }) if self.seed.is_some() => {
                Err(Exit::usage("--seed has no part in --solver auto: name --solver randomized"))
            }
            Some(Solver::Auto { .. }) => Ok(Solver::Auto { seed }),
            Some(solver) => Ok(solver),
        }
    }

    /// Writes the model; called once the result is complete.
    pub fn save_model(&self, model: Option<&PcaModel>, output: &Place) -> Result<(), Exit> {
        let (Some(path), Some(model)) = (&self.save_model, model) else {
            return Ok(());
        };
        model.save(path).map_err(|error| {
            let failed = Exit::from(error);
            let message = format!("{} (the result in {output} is complete)", failed.message);
            Exit { message, ..failed }
        })
    }
}

/// A path without `.` and `..`; it need not exist. A `..` after a missing folder removes that folder.
fn resolved(path: &Path) -> PathBuf {
    let mut at = std::env::current_dir().unwrap_or_default();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                at = fs::canonicalize(&at).unwrap_or(at);
                at.pop();
            }
            part => at.push(part),
        }
    }
    fs::canonicalize(&at).unwrap_or(at)
}

/// Whether a file lies, or would lie, inside a folder. The file need not exist yet.
fn is_inside(file: &Path, folder: &Path) -> bool {
    let folder = resolved(folder);
    let mut file = file.to_owned();
    // Follows symbolic links, also dangling ones, for which `canonicalize` fails.
    for _ in 0..MAX_LINKS {
        let Ok(to) = fs::read_link(&file) else { break };
        file = file.parent().unwrap_or(Path::new("")).join(to);
    }
    let parent = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::canonicalize(parent).is_ok_and(|parent| parent.starts_with(&folder))
}

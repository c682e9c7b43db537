//! The command `extract`.

use std::fs;
use std::io::IsTerminal as _;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser as _};
use indicatif::{ProgressBar, ProgressStyle};
use orb_features::Simd;
use orb_features::features::DESCRIPTOR_LEN;
use orb_features::orb::DEFAULT_MAX_KEYPOINTS;
use orb_features::pca::{DEFAULT_N_COMPONENTS, DEFAULT_SEED};
use orb_features::prelude::*;
use orb_features::sink::DEFAULT_ROWS_PER_FILE;

use crate::choices::{Backend, names};
use crate::exit::Exit;
use crate::orb::OrbArgs;
use crate::place::{Place, looks_like_s3};
use crate::s3::S3Args;
use crate::stop::Stop;

/// The images of IN.
type Images = Box<dyn Iterator<Item = Result<ListedImage>> + Send>;

/// Most symbolic links that Linux follows in one path.
const MAX_LINKS: u32 = 40;

#[derive(Args)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
pub struct Extract {
    /// Folder of images (or one image), or s3://bucket/prefix.
    #[arg(value_name = "IN", value_parser = OsStringValueParser::new().try_map(Place::parse))]
    input: Place,
    /// Folder for the Parquet files, or s3://bucket/prefix.
    #[arg(value_name = "OUT", value_parser = OsStringValueParser::new().try_map(Place::parse))]
    output: Place,

    /// Take only files whose path below IN matches, such as '**/*.jpg'.
    #[arg(long, value_name = "P")]
    glob: Option<String>,
    /// Take only files with one of these endings, such as jpg,png.
    #[arg(long, value_name = "E,..", value_delimiter = ',')]
    extensions: Option<Vec<String>>,
    /// Take only files of at least N bytes.
    #[arg(long, value_name = "N")]
    min_bytes: Option<u64>,
    /// Take only files of at most N bytes.
    #[arg(long, value_name = "N")]
    max_bytes: Option<u64>,
    /// Take only files directly in IN, not in folders below it.
    #[arg(long)]
    one_level: bool,
    /// Where labels come from: parent, none, segment:N or hive:KEY.
    #[arg(long, default_value = "parent")]
    label: LabelRule,

    /// Extractor to use: this crate's own, or OpenCV's (if built with it).
    #[arg(long, value_enum, default_value_t = Backend::Native)]
    backend: Backend,
    /// OpenCV build whose results to reproduce: pypi-4.13 (wheels of 4.13 to 5.0), pypi-4.6 (wheels of 4.6 to 4.12)
    /// or debian-4.6; append -nofma for its results on a CPU without AVX2 [default: pypi-4.13].
    #[arg(long, value_name = "BUILD")]
    compat: Option<OpenCvBuild>,
    /// How colours become grey: as by cv2.imread(path) then BGR2GRAY (bgr), or as by IMREAD_GRAYSCALE (luma).
    #[arg(long, default_value_t, value_parser = names(GrayMode::ALL, GrayMode::as_str))]
    gray: GrayMode,
    /// Turn images upright as their EXIF data say, or leave them as they are stored.
    #[arg(long, default_value_t,
          value_parser = names(ExifOrientation::ALL, ExifOrientation::as_str))]
    exif: ExifOrientation,

    /// Number of principal components, 1 to 32 [default: 20].
    #[arg(long, value_name = "K", conflicts_with_all = ["no_pca", "model"])]
    pca: Option<usize>,
    /// Write no principal components.
    #[arg(long, conflicts_with_all = ["solver", "seed", "center", "save_model", "model"])]
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
    save_model: Option<PathBuf>,
    /// Project onto the model of this JSON file instead of fitting one.
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,

    /// What to do about an image that fails: end the job, leave it out, or record it in OUT/_errors.
    #[arg(long, default_value_t, value_parser = names(OnError::ALL, OnError::as_str))]
    on_error: OnError,
    /// End the job if more images fail than this number or share, such as 100, 5% or 0.1% (a share is judged at the
    /// end, and from the 1000th image on) [default: no limit].
    #[arg(long, value_name = "N|P%")]
    max_failures: Option<MaxFailures>,
    /// Write a result without rows, rather than none, if every image failed.
    #[arg(long)]
    allow_empty: bool,
    /// Most keypoints of one image: an image with more, through ties, fails.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_MAX_KEYPOINTS,
          value_parser = clap::value_parser!(u32).range(1..))]
    max_keypoints: u32,
    /// Accept a --model, or with --mode append a result, that was made with other parameters, another decoder or
    /// another fit.
    #[arg(long)]
    force: bool,
    /// What to do if OUT exists: refuse, replace an older result, or add files.
    #[arg(long, default_value_t, value_parser = names(WriteMode::ALL, WriteMode::as_str))]
    mode: WriteMode,
    /// Most rows of one file.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_ROWS_PER_FILE,
          value_parser = clap::value_parser!(u64).range(1..))]
    rows_per_file: u64,
    /// Number of threads, at most 1024 [default: one for each core].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Instruction set of the kernels: auto, scalar, avx2 or avx512; it changes no result.
    #[arg(long, value_name = "SET", default_value = "auto")]
    simd: Simd,
    /// Print the report as one JSON object on standard output.
    #[arg(long)]
    pub json: bool,

    // Flattened last, because a help heading applies to all options after it.
    #[command(flatten)]
    s3: S3Args,
    #[command(flatten)]
    orb: OrbArgs,
}

impl Extract {
    pub fn run(&self) -> Result<Outcome, Exit> {
        Simd::set(self.simd)?;
        let params = self.orb.params(self.compat.unwrap_or_default());
        match self.backend {
            Backend::Native => {
                self.run_with(params.with_max_keypoints(self.max_keypoints).build()?)
            }
            Backend::Opencv if self.compat.is_some() => {
                Err(Exit::usage("--compat is for --backend native: OpenCV is the build that it is"))
            }
            #[cfg(feature = "opencv")]
            Backend::Opencv => {
                self.run_with(OpenCvOrb::new(params.with_max_keypoints(self.max_keypoints))?)
            }
            #[cfg(not(feature = "opencv"))]
            Backend::Opencv => Err(Exit::usage(
                "--backend opencv: this program was built without the feature `opencv`",
            )),
        }
    }

    fn run_with<E: FeatureExtractor + Clone + 'static>(
        &self,
        extractor: E,
    ) -> Result<Outcome, Exit> {
        self.s3.check(&self.input, &self.output)?;
        self.check_selection()?;
        self.check_policies()?;
        let decode =
            DecodeParams::default().with_gray_mode(self.gray).with_exif_orientation(self.exif);
        let projection = self.projection(&Origin::new(&extractor, &decode))?;
        // Set before there is anything to clean up.
        let stop = Stop::on_interrupt();
        let needs_s3 = [&self.input, &self.output].iter().any(|p| matches!(p, Place::S3(_)));
        let s3 = if needs_s3 {
            Some(self.s3.connect().map_err(|error| self.failed(error))?)
        } else {
            None
        };
        stop.also(s3.as_ref());
        // Opens IN before OUT is touched, so that a wrong IN leaves OUT unchanged.
        let images = self.images(s3.as_ref()).map_err(|error| self.failed(error))?;
        let mut parquet = ParquetParams::default()
            .with_rows_per_file(self.rows_per_file)
            .with_mode(self.mode)
            .with_force(self.force);
        if let Some(id) = &self.s3.run_id {
            parquet = parquet.with_run_id(id);
        }
        let sink = match (&self.output, &s3) {
            (Place::Folder(path), _) => ParquetSink::create(path, parquet),
            (Place::S3(location), Some(s3)) => {
                ParquetSink::create_in_s3(s3, location.clone(), parquet)
            }
            (Place::S3(_), None) => unreachable!("a place in S3 has a connection"),
        };
        let sink = match sink {
            Err(error @ Error::AlreadyCommitted { .. }) => return self.done_before(&error),
            sink => sink.map_err(|error| self.failed(error))?,
        };
        let bar = progress_bar();
        let shown = bar.clone();
        let mut pipeline = Pipeline::new(images, extractor, sink)
            .with_decode(decode)
            .with_on_error(self.on_error)
            .with_allow_empty(self.allow_empty)
            .with_force(self.force)
            .with_stop(stop.flag)
            .with_progress(move |progress| {
                if shown.is_hidden() {
                    return;
                }
                let Progress { images, rows, written, failed, .. } = progress;
                shown.set_position(*images);
                let rate = shown.per_sec();
                shown.set_message(format!(
                    "{rate:.0} a second: {rows} rows found, {written} written, {failed} failed"
                ));
            });
        if let Some(most) = self.max_failures {
            pipeline = pipeline.with_max_failures(most);
        }
        if let Some(threads) = self.threads {
            pipeline = pipeline.with_parallelism(Parallelism::new(threads.into())?);
        }
        let pipeline = match projection {
            Scores::None => pipeline.without_pca(),
            Scores::Fit(params) => pipeline.with_pca(params),
            Scores::Model(model) => pipeline.with_model(*model),
        };
        let report = pipeline.run();
        bar.finish_and_clear();
        match report {
            Err(error @ Error::AlreadyCommitted { .. }) => self.done_before(&error),
            report => report
                .map(|report| Outcome::Done(Box::new(report)))
                .map_err(|error| self.failed(error)),
        }
    }

    /// Ends a run whose result is already committed.
    fn done_before(&self, error: &Error) -> Result<Outcome, Exit> {
        match &self.save_model {
            Some(path) => Err(Exit {
                message: format!(
                    "{}: {} is not written (the footers of the result's files have the model)",
                    error.to_line(),
                    path.display()
                ),
                status: 1,
            }),
            None => Ok(Outcome::DoneBefore(error.to_line())),
        }
    }

    /// Refuses options that select files of a folder if IN is a single file.
    fn check_selection(&self) -> Result<(), Exit> {
        let Place::Folder(path) = &self.input else { return Ok(()) };
        let given = [
            ("--glob", self.glob.is_some()),
            ("--extensions", self.extensions.is_some()),
            ("--min-bytes", self.min_bytes.is_some()),
            ("--max-bytes", self.max_bytes.is_some()),
            ("--one-level", self.one_level),
        ];
        match given.into_iter().find(|(_, is_given)| *is_given) {
            Some((name, _)) if path.is_file() => {
                let file = path.display();
                Err(Exit::usage(&format!("{name} is for folders: {file} is a file")))
            }
            _ => Ok(()),
        }
    }

    /// Refuses options that would have no effect.
    fn check_policies(&self) -> Result<(), Exit> {
        let given =
            [("--max-failures", self.max_failures.is_some()), ("--allow-empty", self.allow_empty)];
        if let Some((name, _)) = given.into_iter().find(|(_, is_given)| *is_given)
            && self.on_error == OnError::Fail
        {
            let why = "is for --on-error skip or record: else the first failure ends the job";
            return Err(Exit::usage(&format!("{name} {why}")));
        }
        if self.force && self.model.is_none() && self.mode != WriteMode::Append {
            return Err(Exit::usage("--force is for --model and --mode append"));
        }
        Ok(())
    }

    /// Opens IN.
    fn images(&self, s3: Option<&S3>) -> Result<Images> {
        let mut selection = Selection::default()
            .with_sizes((
                self.min_bytes.map_or(Bound::Unbounded, Bound::Included),
                self.max_bytes.map_or(Bound::Unbounded, Bound::Included),
            ))
            .with_label(self.label.clone())
            .with_recursive(!self.one_level);
        if let Some(glob) = &self.glob {
            selection = selection.with_glob(glob);
        }
        if let Some(extensions) = &self.extensions {
            selection = selection.with_extensions(extensions);
        }
        match (&self.input, s3) {
            (Place::S3(location), Some(s3)) => {
                let mut source = S3Source::new(s3, location.clone())?.with_selection(selection);
                if let Some(requests) = self.s3.requests_in_flight {
                    source = source.with_requests_in_flight(requests as usize);
                }
                if let Some(bytes) = self.s3.bytes_in_flight {
                    source = source.with_bytes_in_flight(bytes);
                }
                if let Some(file) = &self.s3.listing {
                    source = source.with_listing(file);
                }
                Ok(Box::new(source.open()?.map(|image| image.map(Into::into))))
            }
            (Place::Folder(path), _) => {
                Ok(Box::new(FsSource::new(path).with_selection(selection).open()?))
            }
            (Place::S3(_), None) => unreachable!("a place in S3 has a connection"),
        }
    }

    /// Adds to the error that ended the job a hint how to go on, if there is one.
    fn failed(&self, error: Error) -> Exit {
        let hint = match error {
            Error::InDoubt { ref run_id, .. } => &format!(
                "\nhint: the same call with --run-id '{run_id}' settles it, and does nothing twice"
            ),
            _ if error.is_of_one_image() && self.on_error == OnError::Fail => {
                "\nhint: --on-error skip or record goes on without such images"
            }
            // An I/O error is not about credentials.
            Error::Connect { ref source }
                if !self.s3.no_sign_request && !source.is::<std::io::Error>() =>
            {
                "\nhint: credentials come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile \
                 (--profile) or a role; --no-sign-request reads a public bucket"
            }
            Error::AllFailed { .. } => {
                "\nhint: --allow-empty writes a result without a row all the same"
            }
            Error::NoAccess { .. } => {
                "\nhint: reading an object takes another right than listing it (s3:GetObject); --allow-empty goes \
                 on all the same"
            }
            Error::Fit(_) => "\nhint: --no-pca writes the rows as they are",
            _ => "",
        };
        let Exit { message, status } = error.into();
        Exit { message: message + hint, status }
    }

    /// Writes the model; called once the result is complete.
    pub fn save_model(&self, report: &RunReport) -> Result<(), Exit> {
        let (Some(path), Some(model)) = (&self.save_model, &report.pca_model) else {
            return Ok(());
        };
        model.save(path).map_err(|error| {
            let failed = Exit::from(error);
            let message = format!("{} (the result in {} is complete)", failed.message, self.output);
            Exit { message, ..failed }
        })
    }

    fn projection(&self, job: &Origin) -> Result<Scores, Exit> {
        let centering = self.center;
        if self.no_pca {
            return Ok(Scores::None);
        }
        for (name, path) in [("--model", &self.model), ("--save-model", &self.save_model)] {
            if let Some(path) = path.as_ref().and_then(|p| p.to_str()).filter(|p| looks_like_s3(p))
            {
                return Err(Exit::usage(&format!("{name} {path}: the model is a local file")));
            }
        }
        if let Some(path) = &self.model {
            let model = PcaModel::load(path)?;
            if model.dimensions() != DESCRIPTOR_LEN {
                let (file, d) = (path.display(), model.dimensions());
                let why = format!("--model {file}: it is for rows of {d} elements, not of 32");
                return Err(Exit::usage(&why));
            }
            if !self.force
                && let Err(Error::Model { reason, .. }) = model.check_origin(job)
            {
                let file = path.display();
                let why = format!("--model {file}: {reason} (--force takes it all the same)");
                return Err(Exit { message: why, status: 1 });
            }
            let centering = centering.unwrap_or(model.centering());
            return Ok(Scores::Model(Box::new(model.with_centering(centering))));
        }
        if let Some(path) = &self.save_model {
            // Checked now rather than after a long job.
            let folder =
                path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let file = path.display();
            if !folder.is_dir() {
                let why = format!("--save-model {file}: there is no folder {}", folder.display());
                return Err(Exit::usage(&why));
            }
            if path.is_dir() || path.as_os_str().as_encoded_bytes().ends_with(b"/") {
                return Err(Exit::usage(&format!("--save-model {file}: this is a folder")));
            }
            if let Place::Folder(out) = &self.output
                && is_inside(path, out)
            {
                let out = out.display();
                let why = format!(
                    "--save-model {file}: it would be a file in {out} that is not part of a result, which \
                     is then not overwritten any more: name a file elsewhere"
                );
                return Err(Exit::usage(&why));
            }
        }
        let seed = self.seed.unwrap_or(DEFAULT_SEED);
        let solver = match self.solver {
            None | Some(Solver::Randomized { .. }) => Solver::seeded(seed),
            Some(Solver::Covariance) if self.seed.is_some() => {
                return Err(Exit::usage("--seed has no part in --solver covariance"));
            }
            Some(Solver::Auto { .. }) if self.seed.is_some() => {
                let why = "--seed has no part in --solver auto: for 32 elements that is covariance";
                return Err(Exit::usage(why));
            }
            Some(solver) => solver,
        };
        let params = PcaParams::new(self.pca.unwrap_or(DEFAULT_N_COMPONENTS))
            .with_solver(solver)
            .with_centering(centering.unwrap_or_default());
        params.check(DESCRIPTOR_LEN)?;
        Ok(Scores::Fit(params))
    }
}

/// Whether a file lies, or would lie, inside a folder. The file need not exist yet.
fn is_inside(file: &Path, folder: &Path) -> bool {
    let Ok(folder) = fs::canonicalize(folder) else { return false };
    let mut file = file.to_owned();
    // Follows symbolic links, also dangling ones, for which `canonicalize` fails.
    for _ in 0..MAX_LINKS {
        let Ok(to) = fs::read_link(&file) else { break };
        file = file.parent().unwrap_or(Path::new("")).join(to);
    }
    let parent = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::canonicalize(parent).is_ok_and(|parent| parent.starts_with(&folder))
}

/// How a successful run ended.
pub enum Outcome {
    Done(Box<RunReport>),
    /// There was nothing to do; holds the reason.
    DoneBefore(String),
}

enum Scores {
    None,
    Fit(PcaParams),
    Model(Box<PcaModel>),
}

/// The progress display: visible on a terminal, hidden elsewhere.
fn progress_bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    let template = "{spinner} {elapsed_precise} {human_pos} images, {msg}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    // The tick needs a thread, and panics if it cannot start one: first tries to start one.
    if std::thread::Builder::new().spawn(|| ()).is_ok() {
        bar.enable_steady_tick(Duration::from_millis(100));
    }
    bar
}

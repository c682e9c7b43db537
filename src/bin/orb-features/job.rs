//! The options and steps that all commands share: input, selection, failures and output.

use std::io::IsTerminal as _;
use std::ops::Bound;
use std::time::Duration;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser as _};
use indicatif::{ProgressBar, ProgressStyle};
use orb_features::decode::jpeg_is_vectorized;
use orb_features::prelude::*;
use orb_features::table::ImageTable;

use crate::choices::{self, names};
use crate::exit::{Exit, show, text_of, text_of_done};
use crate::output::{OutputArgs, RowArgs};
use crate::pca::{PcaArgs, Scores};
use crate::place::Place;
use crate::s3::S3Args;
use crate::stop::Stop;

/// The images of IN.
type Images = Box<dyn Iterator<Item = Result<ListedImage>> + Send>;

#[derive(Args)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
pub struct Job {
    /// Folder of images (or one image), or s3://bucket/prefix.
    #[arg(value_name = "IN", value_parser = OsStringValueParser::new().try_map(Place::parse))]
    pub input: Place,
    /// Folder for the Parquet files, or s3://bucket/prefix.
    #[arg(value_name = "OUT", value_parser = OsStringValueParser::new().try_map(Place::parse))]
    pub output: Place,

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

    /// Take IN as a Parquet file, or a folder or prefix of them, and the images from a column: encoded ones, as in
    /// Spark's binaryFile, or Spark's image structs.
    #[arg(long)]
    table: bool,
    /// Column of the images [default: content, or else image].
    #[arg(long, value_name = "NAME", requires = "table")]
    column: Option<String>,

    /// Turn images upright as their EXIF data say, or leave them as they are stored.
    #[arg(long, default_value_t,
          value_parser = names(ExifOrientation::ALL, ExifOrientation::as_str))]
    exif: ExifOrientation,

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
    /// Accept a --model, or with --mode append a result, that was made with other parameters, another decoder or
    /// another fit.
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    shape: RowArgs,
    #[command(flatten)]
    files: OutputArgs,
    /// Number of threads, at most 1024 [default: one for each core].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Print the report as one JSON object on standard output.
    #[arg(long)]
    json: bool,
}

/// How a run ended that did not fail.
enum Outcome {
    Done(Box<RunReport>),
    /// There was nothing to do, for this reason.
    DoneBefore(String),
}

/// Options that a command has beside those of the job.
pub struct With<'a> {
    pub s3: &'a S3Args,
    pub pca: &'a PcaArgs,
    pub gray: GrayMode,
    /// Number of components if no option says it; none is no PCA.
    pub default_components: Option<usize>,
    /// Another place that is read.
    pub reads: Option<&'a Place>,
}

impl Job {
    /// Runs the job with an extractor, which may need the connection to S3, and prints the report.
    pub fn run<E: FeatureExtractor + Clone + 'static>(
        &self,
        with: &With<'_>,
        extractor: impl FnOnce(Option<&S3>) -> Result<E, Exit>,
    ) -> Result<(), Exit> {
        let outcome = self.outcome(with, extractor)?;
        let text = match &outcome {
            Outcome::DoneBefore(why) => text_of_done(why, self.json),
            Outcome::Done(report) => text_of(report.as_ref(), self.json),
        };
        let shown = show(&text);
        if let Outcome::Done(report) = &outcome {
            hint_at_the_build();
            with.pca.save_model(report.pca_model.as_ref(), &self.output)?;
        }
        shown
    }

    fn outcome<E: FeatureExtractor + Clone + 'static>(
        &self,
        with: &With<'_>,
        extractor: impl FnOnce(Option<&S3>) -> Result<E, Exit>,
    ) -> Result<Outcome, Exit> {
        with.s3.check(&self.input, &self.output, with.reads)?;
        self.check_selection(with.s3)?;
        self.check_policies(with.pca)?;
        let files = self.shape.apply(self.files.params());
        files.check()?;
        self.files.check(with.s3)?;
        let output = self.files.place(&self.output)?;
        with.pca.check_files(&output)?;
        let decode =
            DecodeParams::default().with_gray_mode(with.gray).with_exif_orientation(self.exif);
        // Set before there is anything to clean up.
        let stop = Stop::on_interrupt();
        let needs_s3 = [Some(&self.input), Some(&self.output), with.reads]
            .into_iter()
            .flatten()
            .any(Place::is_s3);
        let s3 = if needs_s3 {
            Some(with.s3.connect().map_err(|error| self.failed(with, error))?)
        } else {
            None
        };
        stop.also(s3.as_ref());
        let extractor = extractor(s3.as_ref())?;
        let origin = Origin::new(&extractor, &decode);
        let format = extractor.output();
        let scores =
            with.pca.scores(Some((format, &origin)), with.default_components, self.force)?;
        files.table().check_for(format, None)?;
        // Opens IN before OUT is touched, so that a wrong IN leaves OUT unchanged.
        let images = self.images(with.s3, s3.as_ref()).map_err(|error| self.failed(with, error))?;
        let mut files = files.with_force(self.force);
        if let Some(id) = &with.s3.run_id {
            files = files.with_run_id(id);
        }
        let sink = match (&output, &s3) {
            (Place::Folder(path), _) => FileSink::create(path, files),
            (Place::S3(location), Some(s3)) => FileSink::create_in_s3(s3, location.clone(), files),
            (Place::S3(_), None) => unreachable!("a place in S3 has a connection"),
        };
        let sink = match sink {
            Err(error @ Error::AlreadyCommitted { .. }) => {
                return done_before(with.pca, &error).map(Outcome::DoneBefore);
            }
            sink => sink.map_err(|error| self.failed(with, error))?,
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
            pipeline = pipeline.with_parallelism(choices::threads(threads)?);
        }
        let pipeline = match scores {
            Scores::None => pipeline.without_pca(),
            Scores::Fit(params) => pipeline.with_pca(params),
            Scores::Model(model) => pipeline.with_model(*model),
        };
        let report = pipeline.run();
        bar.finish_and_clear();
        match report {
            Err(error @ Error::AlreadyCommitted { .. }) => {
                done_before(with.pca, &error).map(Outcome::DoneBefore)
            }
            report => report
                .map(|report| Outcome::Done(Box::new(report)))
                .map_err(|error| self.failed(with, error)),
        }
    }

    /// Refuses options that select files of a folder if IN is a single file or a table.
    fn check_selection(&self, s3: &S3Args) -> Result<(), Exit> {
        if self.table && s3.listing.is_some() {
            return Err(Exit::usage("--listing has no part in --table"));
        }
        let given = [
            ("--glob", self.glob.is_some()),
            ("--extensions", self.extensions.is_some()),
            ("--min-bytes", self.min_bytes.is_some()),
            ("--max-bytes", self.max_bytes.is_some()),
            ("--one-level", self.one_level),
        ];
        let Some((name, _)) = given.into_iter().find(|(_, is_given)| *is_given) else {
            return Ok(());
        };
        match &self.input {
            _ if self.table => Err(Exit::usage(&format!("{name} has no part in --table"))),
            Place::Folder(path) if path.is_file() => {
                let file = path.display();
                Err(Exit::usage(&format!("{name} is for folders: {file} is a file")))
            }
            _ => Ok(()),
        }
    }

    /// Refuses options that would have no effect.
    fn check_policies(&self, pca: &PcaArgs) -> Result<(), Exit> {
        let given =
            [("--max-failures", self.max_failures.is_some()), ("--allow-empty", self.allow_empty)];
        if let Some((name, _)) = given.into_iter().find(|(_, is_given)| *is_given)
            && self.on_error == OnError::Fail
        {
            let why = "is for --on-error skip or record: else the first failure ends the job";
            return Err(Exit::usage(&format!("{name} {why}")));
        }
        if self.force && pca.model.is_none() && self.files.mode != WriteMode::Append {
            return Err(Exit::usage("--force is for --model and --mode append"));
        }
        Ok(())
    }

    /// Opens IN.
    fn images(&self, args: &S3Args, s3: Option<&S3>) -> Result<Images> {
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
        if self.table {
            let table = args.table(&self.input, s3)?;
            let mut images = ImageTable::new(table).with_label(self.label.clone());
            if let Some(column) = &self.column {
                images = images.with_column(column);
            }
            return Ok(Box::new(images.open()?.map(|image| image.map(Into::into))));
        }
        match (&self.input, s3) {
            (Place::S3(location), Some(s3)) => {
                let mut source = S3Source::new(s3, location.clone())?.with_selection(selection);
                if let Some(requests) = args.requests_in_flight {
                    source = source.with_requests_in_flight(requests as usize);
                }
                if let Some(bytes) = args.bytes_in_flight {
                    source = source.with_bytes_in_flight(bytes);
                }
                if let Some(file) = &args.listing {
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
    fn failed(&self, with: &With<'_>, error: Error) -> Exit {
        let hint = match error {
            Error::InDoubt { ref run_id, .. } => &format!(
                "\nhint: the same call with --run-id '{run_id}' settles it, and does nothing twice"
            ),
            _ if error.is_of_one_image() && self.on_error == OnError::Fail => {
                "\nhint: --on-error skip or record goes on without such images"
            }
            // An I/O error is not about credentials.
            Error::Connect { ref source }
                if !with.s3.no_sign_request && !source.is::<std::io::Error>() =>
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
}

/// Ends a run whose result is already committed.
pub fn done_before(pca: &PcaArgs, error: &Error) -> Result<String, Exit> {
    match &pca.save_model {
        Some(path) => Err(Exit {
            message: format!(
                "{}: {} is not written (the footers of the result's files have the model)",
                error.to_line(),
                path.display()
            ),
            status: 1,
        }),
        None => Ok(error.to_line()),
    }
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

/// Tells the user that a build with nasm decodes JPEGs faster: cargo does not show the warnings of a dependency.
fn hint_at_the_build() {
    let is_x86 = cfg!(any(target_arch = "x86_64", target_arch = "x86"));
    if is_x86 && !jpeg_is_vectorized() {
        eprintln!(
            "note: this program decodes JPEGs without vector instructions; built with nasm, in half of the time"
        );
    }
}

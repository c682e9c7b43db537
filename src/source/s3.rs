//! A bucket, or a part of one.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinHandle;

use super::listing::Listing;
use super::selection::{Matcher, Selection};
use super::{ImageObject, ImageRef, ImageSource};
use crate::error::{DecodeCause, Error, ObjectCause, Result};
use crate::s3::{Fault, Kind, Listed, MAX_PAGE_SIZE, S3, S3Location, outcome_of};

/// Default of [`S3Source::with_requests_in_flight`].
pub const DEFAULT_REQUESTS_IN_FLIGHT: usize = 64;
/// Default of [`S3Source::with_bytes_in_flight`]: 64 MiB.
pub const DEFAULT_BYTES_IN_FLIGHT: u64 = 64 << 20;
/// Default of [`S3Source::with_max_object_bytes`]: 1 GiB.
pub const DEFAULT_MAX_OBJECT_BYTES: u64 = 1 << 30;

/// The unit in which bytes in flight are counted.
const UNIT: u64 = 1 << 10;

/// The images of a bucket whose keys lie below a prefix, or a single object.
///
/// Objects come in the order of the listing, which is the byte order of their keys. Many objects are fetched
/// at a time while the listing continues. A [`Selection`] decides which objects are taken, as for a folder
/// ([`FsSource`](super::FsSource)).
///
/// An object that was deleted or changed after it was listed gives an [`Error::Object`] that says so. The
/// length and every checksum that the server sends are verified.
///
/// # Examples
/// ```no_run
/// use orb_features::prelude::*;
///
/// let s3 = S3Params::default().with_region("eu-central-1").connect()?;
/// for image in S3Source::new(&s3, "s3://fruits/Test")?.open()? {
///     let image = image?;
///     println!("{} {:?} {} bytes", image.uri, image.label, image.bytes.len());
/// }
/// # Ok::<(), orb_features::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct S3Source {
    s3: S3,
    root: S3Location,
    selection: Selection,
    listing: Option<PathBuf>,
    listed: Option<Vec<ImageRef>>,
    page_size: i32,
    requests_in_flight: usize,
    bytes_in_flight: u64,
    max_object_bytes: u64,
}

impl S3Source {
    /// Takes `s3://bucket/prefix`: all objects below it, or the single object of this key.
    ///
    /// # Errors
    /// [`Error::InvalidParam`] if `location` is not of this form.
    pub fn new<L>(s3: &S3, location: L) -> Result<Self>
    where
        L: TryInto<S3Location>,
        Error: From<L::Error>,
    {
        Ok(Self {
            s3: s3.clone(),
            root: location.try_into()?,
            selection: Selection::default(),
            listing: None,
            listed: None,
            page_size: MAX_PAGE_SIZE,
            requests_in_flight: DEFAULT_REQUESTS_IN_FLIGHT,
            bytes_in_flight: DEFAULT_BYTES_IN_FLIGHT,
            max_object_bytes: DEFAULT_MAX_OBJECT_BYTES,
        })
    }

    /// Where it reads.
    pub(crate) fn root(&self) -> &S3Location {
        &self.root
    }

    /// The same for the files of a table.
    pub(crate) fn of_tables(mut self, extensions: impl IntoIterator<Item = &'static str>) -> Self {
        self.selection = self.selection.of_tables(extensions);
        self
    }

    /// Sets which objects are taken and how they are labelled (default: all images, labelled by their
    /// folders).
    pub fn with_selection(mut self, selection: Selection) -> Self {
        self.selection = selection;
        self
    }

    /// Takes keys from a file instead of listing the bucket, in the order of the file.
    ///
    /// The file is local or `s3://`. Its ending tells its format:
    /// - `.json`: the `manifest.json` of an S3 Inventory in CSV or Parquet. The data files lie in the inventory's
    ///   destination bucket; those of a local manifest lie beside it or in `../data` from there;
    /// - `.csv`, `.csv.gz`: one CSV data file of an inventory, with the columns bucket, key and, optionally, size;
    /// - `.parquet`: one Parquet data file of an inventory;
    /// - anything else: one key or whole URI on each line, not URL-encoded, optionally followed by a tab and the size
    ///   in bytes.
    ///
    /// Versions that are not the latest, delete markers and keys that are not below the prefix are skipped. A key that
    /// is listed n times gives its image n times. Data files in S3 are held in memory one at a time, and have at most
    /// 1 GiB; a line has at most 64 KiB.
    pub fn with_listing(mut self, file: impl Into<PathBuf>) -> Self {
        self.listing = Some(file.into());
        self
    }

    /// Takes the objects of a [`list`](Self::list), or a part of them, instead of listing the bucket: for a job that
    /// several machines share. Root and selection must be those of the list.
    pub fn with_listed(mut self, listed: Vec<ImageRef>) -> Self {
        self.listed = Some(listed);
        self
    }

    /// Lists the objects that would be fetched.
    ///
    /// # Errors
    /// As of [`open`](ImageSource::open). A page that cannot be listed is an item, the last one.
    pub fn list(self) -> Result<impl Iterator<Item = Result<ImageRef>> + Send + 'static> {
        let mut keys = self.open_keys()?;
        let s3 = self.s3.clone();
        let (queue, mut images) = mpsc::channel(MAX_PAGE_SIZE as usize);
        let taker = Taker::new(self, &keys)?;
        let listing = async move {
            let mut seen = Seen::default();
            while let Some(object) = keys.next(&taker.options).await {
                let image = match object {
                    Ok(object) if !taker.takes(&object, &mut seen) => continue,
                    Ok(object) => {
                        let uri = taker.options.root.uri_of(&object.key);
                        Ok(ImageRef { uri, size: object.size, etag: object.etag })
                    }
                    Err(error) => Err(error),
                };
                let is_last = image.is_err();
                // The consumer may have gone.
                if queue.send(image).await.is_err() || is_last {
                    return;
                }
            }
            if seen.taken == 0 {
                let _ = queue.send(Err(taker.nothing(seen))).await;
            }
        };
        let mut lister = Some(Task(s3.spawn(listing)));
        Ok(std::iter::from_fn(move || {
            lister.as_ref()?;
            let image = match s3.wait_for(images.recv()) {
                Ok(Some(image)) => return Some(image),
                Ok(None) => None,
                Err(error) => Some(Err(error)),
            };
            // Waiting for a task that has ended propagates its panic, if there was one.
            let lister = lister.take().filter(|_| image.is_none());
            lister.and_then(|lister| s3.wait_for(lister).err().map(Err)).or(image)
        }))
    }

    fn open_keys(&self) -> Result<Keys> {
        self.check()?;
        let options = self.clone();
        let opening = self.s3.spawn(async move { Keys::open(&options).await });
        self.s3.wait_for(Task(opening))?
    }

    fn check(&self) -> Result<()> {
        if !(1..=MAX_PAGE_SIZE).contains(&self.page_size) {
            return Err(Error::param("page_size", self.page_size, "1 to 1000"));
        }
        // The queue holds twice as many items, and may hold at most `MAX_PERMITS`.
        let most = Semaphore::MAX_PERMITS / 2;
        if self.requests_in_flight == 0 || self.requests_in_flight > most {
            return Err(Error::param(
                "requests_in_flight",
                self.requests_in_flight,
                format!("1 to {most}"),
            ));
        }
        if self.bytes_in_flight == 0 {
            return Err(Error::param("bytes_in_flight", 0, "at least 1"));
        }
        Ok(())
    }

    /// Sets how many keys one listing request asks for, 1 to 1000 (default 1000).
    pub fn with_page_size(mut self, keys: u16) -> Self {
        self.page_size = keys.into();
        self
    }

    /// Sets how many objects are fetched at a time (default [`DEFAULT_REQUESTS_IN_FLIGHT`]).
    ///
    /// Choose the wanted rate in objects per second times the latency of a request in seconds.
    pub fn with_requests_in_flight(mut self, requests: usize) -> Self {
        self.requests_in_flight = requests;
        self
    }

    /// Sets how many bytes may be in flight or waiting for the consumer (default
    /// [`DEFAULT_BYTES_IN_FLIGHT`]); a single object may exceed this limit.
    pub fn with_bytes_in_flight(mut self, bytes: u64) -> Self {
        self.bytes_in_flight = bytes;
        self
    }

    /// Sets the largest object to read (default [`DEFAULT_MAX_OBJECT_BYTES`]); a larger one is an
    /// error.
    pub fn with_max_object_bytes(mut self, bytes: u64) -> Self {
        self.max_object_bytes = bytes;
        self
    }
}

impl ImageSource for S3Source {
    type Image = ImageObject;
    type Images = S3Images;

    /// Lists the first page, or opens the file of the listing, and starts fetching.
    ///
    /// If no object is taken, the stream ends with an [`Error::NoInput`] item.
    ///
    /// # Errors
    /// [`Error::List`] if the bucket does not exist, access to it is denied, or the server cannot be reached;
    /// [`Error::InvalidParam`].
    fn open(self) -> Result<S3Images> {
        let keys = self.open_keys()?;
        let s3 = self.s3.clone();
        let taker = Taker::new(self, &keys)?;
        let options = &taker.options;
        let (queue, fetches) = mpsc::channel(2 * options.requests_in_flight);
        let (head, reached) = watch::channel(0);
        let lister = Lister {
            budget: Arc::new(Budget::new(options.bytes_in_flight, reached)),
            requests: Arc::new(Semaphore::new(options.requests_in_flight)),
            taker,
            queue,
        };
        let lister = Task(s3.spawn(lister.run(keys)));
        Ok(S3Images { s3, fetches, head, number: 0, lister: Some(lister) })
    }
}

/// A task that is aborted when its handle is dropped.
#[derive(Debug)]
struct Task<T>(JoinHandle<T>);

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<T> Future for Task<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        Pin::new(&mut self.0).poll(context).map(outcome_of)
    }
}

/// Where the keys come from.
#[derive(Debug)]
struct Keys {
    /// Prefix of the keys that are taken; it is stripped before they are matched.
    folder: String,
    page: VecDeque<Listed>,
    rest: Rest,
    /// Counts the retries of the listing.
    s3: S3,
}

#[derive(Debug)]
enum Rest {
    /// Pages of a bucket: the prefix of the keys, and the continuation token of the next page.
    Pages {
        prefix: String,
        token: Option<String>,
    },
    File(Box<Listing>),
}

impl Keys {
    async fn open(options: &S3Source) -> Result<Self> {
        let mut folder = options.root.folder();
        let s3 = options.s3.counted();
        if let Some(listed) = &options.listed {
            let page = listed.iter().map(|image| {
                let at: S3Location = image.uri.parse()?;
                let is_below = at.key().starts_with(&folder) || at.key() == options.root.key();
                if at.bucket() != options.root.bucket() || !is_below {
                    return Err(Error::param("listed", &image.uri, format!("of {}", options.root)));
                }
                let ImageRef { size, etag, .. } = image.clone();
                Ok(Listed { key: at.key().to_owned(), size, etag, modified: None })
            });
            let page = page.collect::<Result<VecDeque<_>>>()?;
            let key = options.root.key();
            if page.len() == 1 && page[0].key == key {
                // The root is an object.
                folder.truncate(key.rfind('/').map_or(0, |at| at + 1));
            }
            let rest = Rest::Pages { prefix: String::new(), token: None };
            return Ok(Self { folder, page, rest, s3 });
        }
        if let Some(file) = &options.listing {
            let listing = Listing::open(&s3, file, options.root.bucket()).await?;
            let rest = Rest::File(Box::new(listing));
            return Ok(Self { folder, page: VecDeque::new(), rest, s3 });
        }
        let prefix = folder.clone() + options.selection.literal_prefix();
        let mut keys = Self {
            folder: folder.clone(),
            page: VecDeque::new(),
            rest: Rest::Pages { prefix, token: None },
            s3,
        };
        keys.turn(options, None).await?;
        let is_empty = keys.page.is_empty() && matches!(keys.rest, Rest::Pages { token: None, .. });
        let (bucket, key) = (options.root.bucket(), options.root.key());
        // The listing is also empty if the glob's prefix excludes all of a folder. Then an object with the
        // folder's name may be a console's placeholder, so the folder itself must be empty, too.
        if is_empty
            && !key.is_empty()
            && !key.ends_with('/')
            && has_nothing_below(options, &keys.s3).await?
        {
            // Not a folder; perhaps an object.
            let object = keys.s3.head(bucket, key).await;
            // An error counts as absence: to callers without the right to list, S3 denies access to missing
            // keys.
            if let Ok(Some(object)) = object {
                options.selection.check_single(&options.root.to_string(), "a single object")?;
                folder.truncate(key.rfind('/').map_or(0, |at| at + 1));
                keys.folder = folder;
                keys.page.push_back(object);
            }
        }
        Ok(keys)
    }

    /// Gets the page that begins at the token `from`.
    async fn turn(&mut self, options: &S3Source, from: Option<String>) -> Result<()> {
        let Rest::Pages { prefix, token } = &mut self.rest else { return Ok(()) };
        let bucket = options.root.bucket();
        let one_level = !options.selection.recursive;
        let page = self
            .s3
            .list(bucket, prefix, one_level, options.page_size, from.as_deref())
            .await
            .map_err(|fault| Error::list(options.root.to_string(), fault))?;
        self.page = page.objects.into();
        *token = page.next;
        Ok(())
    }

    async fn next(&mut self, options: &S3Source) -> Option<Result<Listed>> {
        loop {
            if let Some(object) = self.page.pop_front() {
                return Some(Ok(object));
            }
            let turned = match &mut self.rest {
                Rest::Pages { token, .. } => {
                    let token = token.take()?;
                    self.turn(options, Some(token)).await
                }
                Rest::File(listing) => match next_page(listing, options, &self.s3).await {
                    Ok(page) if page.is_empty() => return None,
                    Ok(page) => {
                        self.page = page.into();
                        Ok(())
                    }
                    Err(error) => Err(error),
                },
            };
            if let Err(error) = turned {
                // A listing cannot continue after an error.
                self.rest = Rest::Pages { prefix: String::new(), token: None };
                return Some(Err(error));
            }
        }
    }
}

/// The next objects of a listing. Fails if the selection needs sizes and one is missing.
async fn next_page(listing: &mut Listing, options: &S3Source, s3: &S3) -> Result<Vec<Listed>> {
    let page = listing.next_page(s3).await?;
    let unknown = page.iter().find(|object| object.size.is_none());
    match (unknown, &options.listing) {
        (Some(object), Some(file)) if options.selection.sizes.is_some() => {
            let why = format!("it does not give the size of {}, by which to select", object.key);
            Err(Error::list(file.display().to_string(), why))
        }
        _ => Ok(page),
    }
}

/// Whether there is no key at all below the root.
async fn has_nothing_below(options: &S3Source, s3: &S3) -> Result<bool> {
    let page = s3.list(options.root.bucket(), &options.root.folder(), false, 1, None).await;
    page.map(|page| page.objects.is_empty() && page.next.is_none())
        .map_err(|fault| Error::list(options.root.to_string(), fault))
}

/// Limits the bytes in flight or waiting for the consumer.
#[derive(Debug)]
struct Budget {
    units: Arc<Semaphore>,
    total: u32,
    /// The number of the object that the consumer waits for.
    head: watch::Receiver<u64>,
}

impl Budget {
    fn new(bytes: u64, head: watch::Receiver<u64>) -> Self {
        let total = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX >> 3).min(u32::MAX >> 3);
        Self { units: Arc::new(Semaphore::new(total as usize)), total, head }
    }

    /// Waits for room for `bytes`, or until the consumer waits for object `number`: this object must go ahead
    /// without room, as the objects that hold room are consumed after it.
    async fn reserve(&self, bytes: u64, number: u64) -> Option<OwnedSemaphorePermit> {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).min(self.total);
        if let Ok(permit) = Arc::clone(&self.units).try_acquire_many_owned(units) {
            return Some(permit);
        }
        let mut head = self.head.clone();
        tokio::select! {
            permit = Arc::clone(&self.units).acquire_many_owned(units) => permit.ok(),
            _ = head.wait_for(|&head| head >= number) => None,
        }
    }
}

type Fetched = (ImageObject, Option<OwnedSemaphorePermit>);

/// Items for the consumer, in order.
enum Step {
    Fetch(Task<Result<Fetched>>),
    /// The last item: the listing failed, or no object was taken.
    Failed(Error),
}

/// Decides which objects are taken.
struct Taker {
    options: Arc<S3Source>,
    folder: String,
    matcher: Matcher,
}

/// Goes through the keys and starts to fetch.
struct Lister {
    taker: Taker,
    queue: mpsc::Sender<Step>,
    requests: Arc<Semaphore>,
    budget: Arc<Budget>,
}

/// Counts of the keys so far.
#[derive(Clone, Copy, Default)]
struct Seen {
    /// Below the prefix, and not hidden.
    below: u64,
    /// Not below the prefix; only the file of a listing can have such keys.
    elsewhere: u64,
    taken: u64,
}

impl Taker {
    fn new(options: S3Source, keys: &Keys) -> Result<Self> {
        let matcher = options.selection.compile()?;
        Ok(Self { options: Arc::new(options), folder: keys.folder.clone(), matcher })
    }

    /// The key below the folder.
    fn relative<'a>(&self, object: &'a Listed) -> Option<&'a str> {
        object.key.strip_prefix(self.folder.as_str())
    }

    /// Whether the selection takes an object; updates the counts.
    fn takes(&self, object: &Listed, seen: &mut Seen) -> bool {
        let Some(relative) = self.relative(object) else {
            seen.elsewhere += 1;
            return false;
        };
        let is_single = self.folder != self.options.root.folder();
        // Consoles create such objects as placeholders for folders.
        let is_folder = relative.is_empty() || relative.ends_with('/');
        let is_hidden = !is_single && relative.split('/').any(|segment| segment.starts_with('.'));
        let is_deeper = !self.options.selection.recursive && relative.contains('/');
        if is_folder || is_hidden || is_deeper {
            return false;
        }
        seen.below += 1;
        let is_taken = is_single
            || (self.matcher.takes(Path::new(relative)) && self.matcher.takes_size(|| object.size));
        seen.taken += u64::from(is_taken);
        is_taken
    }

    fn label(&self, object: &Listed) -> Option<String> {
        let root = if self.folder.is_empty() { self.options.root.bucket() } else { &self.folder };
        self.options.selection.label.label(root, self.relative(object).unwrap_or_default())
    }

    /// The error if no object was taken.
    fn nothing(&self, seen: Seen) -> Error {
        let reason = match &self.options.listing {
            Some(file) if seen.below == 0 && seen.elsewhere > 0 => format!(
                "none of the {} keys in {} begins with {:?}",
                seen.elsewhere,
                file.display(),
                self.folder
            ),
            _ => self.options.selection.describe(seen.below, "objects"),
        };
        Error::NoInput { uri: self.options.root.to_string().into(), reason: reason.into() }
    }
}

impl Lister {
    async fn run(self, mut keys: Keys) {
        let (mut seen, mut retries) = (Seen::default(), 0);
        while let Some(object) = keys.next(&self.taker.options).await {
            let object = match object {
                Ok(object) => object,
                Err(error) => {
                    // The consumer may have gone.
                    let _ = self.queue.send(Step::Failed(error)).await;
                    return;
                }
            };
            if !self.taker.takes(&object, &mut seen) {
                continue;
            }
            // The semaphore is never closed.
            let Ok(request) = Arc::clone(&self.requests).acquire_owned().await else { return };
            // The retries of the listing are attributed to the next object.
            let of_listing = keys.s3.own_retries() - retries;
            retries += of_listing;
            let fetch = self.fetch(object, request, seen.taken, of_listing);
            if self.queue.send(Step::Fetch(fetch)).await.is_err() {
                return;
            }
        }
        if seen.taken == 0 {
            let _ = self.queue.send(Step::Failed(self.taker.nothing(seen))).await;
        }
    }

    /// Starts to fetch object `number`.
    fn fetch(
        &self,
        object: Listed,
        request: OwnedSemaphorePermit,
        number: u64,
        listing_retries: u64,
    ) -> Task<Result<Fetched>> {
        let label = self.taker.label(&object);
        let (options, budget) = (Arc::clone(&self.taker.options), Arc::clone(&self.budget));
        Task(self.taker.options.s3.spawn(async move {
            let s3 = options.s3.counted();
            let size = object.size;
            let fetched = fetch(&options, &s3, object, label.clone(), &budget, number).await;
            drop(request);
            let retries = u32::try_from(s3.own_retries() + listing_retries).unwrap_or(u32::MAX);
            fetched
                .map(|(image, room)| (ImageObject { retries, ..image }, room))
                .map_err(|error| with_retries(error, retries).with_facts(label, size))
        }))
    }
}

/// Fetches one object.
async fn fetch(
    options: &S3Source,
    s3: &S3,
    object: Listed,
    label: Option<String>,
    budget: &Budget,
    number: u64,
) -> Result<Fetched> {
    let bucket = options.root.bucket();
    let uri = options.root.uri_of(&object.key);
    let object = if object.size.is_some() {
        object
    } else {
        match s3.head(bucket, &object.key).await {
            Ok(Some(found)) => Listed { etag: object.etag.or(found.etag), ..found },
            Ok(None) => return Err(lost(&uri, Fault::new(Kind::Missing, "it does not exist"))),
            // The answer to a HEAD has no body that could tell the reason.
            Err(fault) => return Err(lost_or_outage(options, s3, &uri, fault).await),
        }
    };
    let size = object.size.unwrap_or_default();
    if size > options.max_object_bytes {
        let limit = options.max_object_bytes;
        let what = format!("the object is longer than the limit of {limit} bytes");
        return Err(Error::decode(uri, DecodeCause::TooLarge, what));
    }
    let permit = budget.reserve(size, number).await;
    let got = match s3.get(bucket, &object, options.max_object_bytes).await {
        Ok(got) => got,
        Err(fault) if fault.kind == Kind::Network => {
            return Err(lost_or_outage(options, s3, &uri, fault).await);
        }
        Err(fault) => return Err(lost(&uri, fault)),
    };
    let image = ImageObject {
        uri,
        label,
        modified: object.modified.or(got.modified),
        retries: 0,
        bytes: got.bytes,
    };
    Ok((image, permit))
}

/// The error of a failed request that may affect one object or all objects. A listing request tells which: if
/// it fails, too, the job must end.
async fn lost_or_outage(options: &S3Source, s3: &S3, uri: &str, fault: Fault) -> Error {
    let root = &options.root;
    match s3.list(root.bucket(), &root.folder(), true, 1, None).await {
        Err(outage) if matches!(outage.kind, Kind::Network | Kind::Account | Kind::Expired) => {
            Error::connect(format!("{outage}: {uri}"))
        }
        _ => lost(uri, fault),
    }
}

/// The error of a failed request for an object.
fn lost(uri: &str, fault: Fault) -> Error {
    let cause = match fault.kind {
        // Not specific to this object: all others would fail, too.
        Kind::Account | Kind::Expired | Kind::NoBucket => {
            return Error::connect(format!("{fault}: {uri}"));
        }
        Kind::Missing => ObjectCause::Vanished,
        Kind::Precondition | Kind::TooLarge => ObjectCause::Changed,
        Kind::Corrupt => ObjectCause::Corrupt,
        Kind::Denied => ObjectCause::Denied,
        Kind::Refused | Kind::Unsupported => ObjectCause::Refused,
        Kind::Transient | Kind::Network => ObjectCause::Unavailable,
    };
    Error::Object { uri: uri.into(), cause, retries: 0, source: fault.into() }
}

fn with_retries(error: Error, retries: u32) -> Error {
    match error {
        Error::Object { uri, cause, source, .. } => Error::Object { uri, cause, retries, source },
        other => other,
    }
}

/// The stream of an [`S3Source`].
///
/// Dropping it cancels the requests in flight.
pub struct S3Images {
    s3: S3,
    fetches: mpsc::Receiver<Step>,
    head: watch::Sender<u64>,
    /// Number of the object that the consumer got or waits for, from 1.
    number: u64,
    /// `None` once the stream has ended.
    lister: Option<Task<()>>,
}

impl std::fmt::Debug for S3Images {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3Images").field("s3", &self.s3).finish_non_exhaustive()
    }
}

impl S3Images {
    fn advance(&mut self) -> Result<Option<ImageObject>> {
        match self.s3.wait_for(self.fetches.recv())? {
            Some(Step::Fetch(fetch)) => {
                self.number += 1;
                self.head.send_replace(self.number);
                let (image, _room) = self.s3.wait_for(fetch)??;
                Ok(Some(image))
            }
            Some(Step::Failed(error)) => Err(error),
            None => {
                // Waiting for the task propagates its panic, if there was one.
                if let Some(lister) = self.lister.take() {
                    self.s3.wait_for(lister)?;
                }
                Ok(None)
            }
        }
    }
}

impl Iterator for S3Images {
    type Item = Result<ImageObject>;

    fn next(&mut self) -> Option<Self::Item> {
        self.lister.as_ref()?;
        self.advance().transpose()
    }
}

impl std::iter::FusedIterator for S3Images {}

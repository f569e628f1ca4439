// SPDX-License-Identifier: Apache-2.0

// Package file is the source of objects for clusters without a Kubernetes API:
// a folder of YAML files, watched, and a second folder that the controller's
// outputs are written to and merged from.
//
// A file may hold several documents, and lists. Only *.yaml and *.yml are read,
// hidden files are not. Our own objects are read by the letter: unknown fields
// are refused. What can't be read is told once, with file and document, and the
// last good version of the object stays in force.
//
//	src, err := file.New(file.Options{Dir: "/etc/patchbay/objects", StatusDir: "/var/lib/patchbay/status", Log: log})
//	…
//	err = src.Run(ctx, kinds, emit)
package file

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/patchbay-net/patchbay/pkg/source"
)

// Options say where the objects are.
type Options struct {
	Dir       string        // the objects; waited for while it is away
	StatusDir string        // the controller's outputs; made if not there; empty: none
	Log       *slog.Logger  // required
	Rescan    time.Duration // how often to look without being told of a change; 0: 5 s
}

// Source is a folder of objects. Its Run may be called several times, also at
// once.
type Source struct {
	opts Options
}

// New returns the source for a folder, which may be away for now, as on a network.
// Returns an error if Dir is something else.
func New(opts Options) (*Source, error) {
	if err := opts.makeStatusDir(); err != nil {
		return nil, err
	}
	if opts.Rescan <= 0 {
		opts.Rescan = 5 * time.Second
	}
	return &Source{opts}, nil
}

// makeStatusDir makes the status folder if it isn't there, unless the objects are
// away: it may be as well.
func (o Options) makeStatusDir() error {
	info, err := os.Stat(o.Dir)
	if err == nil && !info.IsDir() {
		return fmt.Errorf("open objects folder: %s is not a folder", o.Dir)
	}
	if err != nil || o.StatusDir == "" {
		return nil
	}
	if err := os.MkdirAll(o.StatusDir, 0o755); err != nil {
		return fmt.Errorf("make status folder: %w", err)
	}
	return nil
}

// Run implements source.Source. While the objects folder can't be read nothing is
// known at first; later on what was read stays in force.
func (s *Source) Run(ctx context.Context, kinds []source.Kind, emit func(source.Event)) error {
	r := &run{
		Options: s.opts,
		kinds:   source.Distinct(kinds),
		emit:    emit,
		objects: &folder{dir: s.opts.Dir, kinds: kinds},
		status:  &folder{dir: s.opts.StatusDir, kinds: kinds, ours: true},
		force:   map[ref]*inForce{},
	}
	w, err := fsnotify.NewWatcher()
	if err != nil {
		// No more watches to be had: looking often does as well.
		s.opts.Log.Warn("watch objects folder", "err", err)
		r.Rescan = min(r.Rescan, 500*time.Millisecond)
		w = &fsnotify.Watcher{}
	} else {
		defer w.Close()
	}
	r.start(ctx, w)
	return r.loop(ctx, w)
}

// run is one Run of a Source.
type run struct {
	Options
	kinds    []source.Kind
	emit     func(source.Event)
	objects  *folder
	status   *folder
	force    map[ref]*inForce
	problems map[string]string // told, by origin
}

// start emits what there is, once it has settled.
func (r *run) start(ctx context.Context, w *fsnotify.Watcher) {
	for looks := 0; looks < 10; { // a file that never settles is read as it is
		r.watch(w)
		unsettled, err := r.refresh()
		pause := settle
		if err != nil {
			r.away(err)
			pause = r.Rescan
		} else if looks++; !unsettled {
			break
		}
		if !wait(ctx, pause) {
			return
		}
	}
	r.apply()
	for _, kind := range r.kinds {
		r.emit(source.Event{Op: source.Synced, Kind: kind})
	}
}

// wait returns false if ctx ended first.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// loop looks again after each change, once it is a moment old, and from time to
// time for those of which nothing is heard (a folder on a network, a new one in
// the place of the old).
func (r *run) loop(ctx context.Context, w *fsnotify.Watcher) error {
	const quiet, patience = 20 * time.Millisecond, 200 * time.Millisecond
	look := time.NewTimer(r.Rescan)
	defer look.Stop()
	var latest time.Time // when to look at the latest, in a storm of changes
	for {
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-w.Events:
			if !ok {
				return errors.New("watch objects folder: the watch ended")
			}
			if latest.IsZero() {
				latest = time.Now().Add(patience)
			}
			look.Reset(min(quiet, time.Until(latest)))
		case err := <-w.Errors:
			r.Log.Warn("watch objects folder", "err", err)
			look.Reset(0)
		case <-look.C:
			latest = time.Time{}
			look.Reset(r.look(w))
		}
	}
}

// look emits what changed and returns when to look again.
func (r *run) look(w *fsnotify.Watcher) time.Duration {
	r.watch(w)
	unsettled, err := r.refresh()
	if err != nil {
		r.away(fmt.Errorf("%w; what it last had stays in force", err))
		return r.Rescan
	}
	r.apply()
	if unsettled {
		return settle
	}
	return r.Rescan
}

// away tells that the folder can't be read.
func (r *run) away(err error) { r.tell(map[string]problem{r.Dir: {r.Dir, ref{}, err}}) }

// watch asks to be told of changes, also in a folder that was made anew.
func (r *run) watch(w *fsnotify.Watcher) {
	if w.Events == nil {
		return
	}
	for _, dir := range []string{r.Dir, r.StatusDir} {
		if dir == "" {
			continue
		}
		if err := w.Add(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			r.Log.Warn("watch folder", "dir", dir, "err", err)
		}
	}
}

// refresh reads both folders. Of the status folder nothing is demanded: it may
// come later.
func (r *run) refresh() (unsettled bool, err error) {
	now := time.Now()
	unsettled, err = r.objects.refresh(now)
	if err != nil {
		return false, fmt.Errorf("read objects folder: %w", err)
	}
	if r.StatusDir == "" {
		return unsettled, nil
	}
	more, err := r.status.refresh(now)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		r.Log.Warn("read status folder", "err", err)
	}
	return unsettled || more, nil
}

// SPDX-License-Identifier: Apache-2.0

// Command web is the web tier of the two-tier application that the demo and the
// cluster tests run. For each request it reads a row from the database, by a
// connection of its own through the database's Service, and answers with the
// row, its pod's name and the client's address as it saw it.
//
// On SIGTERM it says that it isn't ready, goes on serving for the lame-duck
// time, until no proxy sends it clients any more, then ends what is in flight.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() { os.Exit(run()) }

func run() int {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	hostname, _ := os.Hostname()
	listen := flag.String("listen", ":8080", "`address` to listen on")
	database := flag.String("database", "", "`address` of the database's Service, host:port (required)")
	pod := flag.String("pod", envOr("POD_NAME", hostname), "`name` to answer with; POD_NAME in the environment")
	lameDuck := flag.Duration("lame-duck", 3*time.Second, "how long to go on serving after SIGTERM")
	flag.Parse()
	if *database == "" {
		fmt.Fprintln(os.Stderr, "web: -database is required")
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	app := &app{pod: *pod, rows: rows{address: *database}}
	if err := serve(ctx, *listen, app, *lameDuck); err != nil {
		log.Error("web", "err", err)
		return 1
	}
	return 0
}

// envOr returns a variable of the environment, or other if it is empty.
func envOr(name, other string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return other
}

// serve serves until ctx ends, then for the lame-duck time, then until the last request is answered.
func serve(ctx context.Context, listen string, app *app, lameDuck time.Duration) error {
	server := &http.Server{Addr: listen, Handler: app.handler(), ReadHeaderTimeout: 5 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- server.ListenAndServe() }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	app.draining.Store(true)
	server.SetKeepAlivesEnabled(false)
	select {
	case err := <-failed:
		return err
	case <-time.After(lameDuck):
	}
	patience, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := server.Shutdown(patience); err != nil {
		return err
	}
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

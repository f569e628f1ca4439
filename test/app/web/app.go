// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"net/http"
	"strconv"
	"sync/atomic"
)

// answer is what each request gets.
type answer struct {
	Pod    string `json:"pod"`
	Client string `json:"client"`
	Row    row    `json:"row"`
}

// app answers requests.
type app struct {
	pod      string
	rows     rows
	draining atomic.Bool
}

func (a *app) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", a.index)
	mux.HandleFunc("GET /ready", a.ready)
	return mux
}

// index answers with a row: that of the id in the query, or the first.
func (a *app) index(w http.ResponseWriter, r *http.Request) {
	id := 1
	if text := r.URL.Query().Get("id"); text != "" {
		var err error
		if id, err = strconv.Atoi(text); err != nil {
			http.Error(w, "id: "+err.Error(), http.StatusBadRequest)
			return
		}
	}
	row, err := a.rows.read(r.Context(), id)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer{Pod: a.pod, Client: r.RemoteAddr, Row: row}) // the client is gone if this fails
}

// ready tells whether new clients are welcome: not while draining, nor without the database.
func (a *app) ready(w http.ResponseWriter, r *http.Request) {
	if a.draining.Load() {
		http.Error(w, "draining", http.StatusServiceUnavailable)
		return
	}
	if _, err := a.rows.read(r.Context(), 1); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
	}
}

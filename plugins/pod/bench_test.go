// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/patchbay-net/patchbay/test/cnilab"
	"github.com/patchbay-net/patchbay/test/netlab"
)

const ptpList = `{"cniVersion":"1.1.0","name":"ptp","plugins":[{"type":"ptp","ipam":{"type":"host-local","dataDir":"%s","ranges":[[{"subnet":"10.3.0.0/16"}]],"routes":[{"dst":"0.0.0.0/0"}]}}]}`

// BenchmarkAddDel times ADD and DEL one at a time, beside the reference plugin
// ptp with host-local, in turn. IPv4 alone: for IPv6, ptp waits more than a
// second for duplicate address detection. The agent is the tests' own.
func BenchmarkAddDel(b *testing.B) {
	l := newLabWith(b, `"ipam":{"type":"patchbay-ipam","leases":"%[1]s/leases.db","durable":false,"ranges":[[{"subnet":"10.244.0.0/16"}]]}`)
	peer := cnilab.NewRuntime(b, l.Node, os.Getenv(binEnv), fmt.Sprintf(ptpList, l.dir+"/host-local"))
	times := map[string][]time.Duration{}
	n := 0
	for b.Loop() {
		for name, r := range map[string]*cnilab.Runtime{"patchbay": l.Runtime, "ptp": peer} {
			n++
			addDel(b, r, fmt.Sprint("c", n), func(verb string, d time.Duration) {
				times[name+"-"+verb] = append(times[name+"-"+verb], d)
			})
		}
	}
	b.ReportMetric(0, "ns/op")
	for what, list := range times {
		slices.Sort(list)
		b.ReportMetric(list[len(list)/2].Seconds()*1e3, what+"-p50-ms")
	}
}

// BenchmarkPairs counts pairs of ADD and DEL a second, 8 at a time, beside ptp.
func BenchmarkPairs(b *testing.B) {
	l := newLabWith(b, `"ipam":{"type":"patchbay-ipam","leases":"%[1]s/leases.db","durable":false,"ranges":[[{"subnet":"10.244.0.0/16"}]]}`)
	peer := cnilab.NewRuntime(b, l.Node, os.Getenv(binEnv), fmt.Sprintf(ptpList, l.dir+"/host-local"))
	const batch, parallel = 80, 8
	spent := map[string]time.Duration{}
	for b.Loop() {
		for name, r := range map[string]*cnilab.Runtime{"patchbay": l.Runtime, "ptp": peer} {
			ids := make(chan string)
			var wait sync.WaitGroup
			start := time.Now()
			for range parallel {
				wait.Go(func() {
					for id := range ids {
						addDel(b, r, id, func(string, time.Duration) {})
					}
				})
			}
			for i := range batch {
				ids <- fmt.Sprint("b", i)
			}
			close(ids)
			wait.Wait()
			spent[name] += time.Since(start)
		}
	}
	b.ReportMetric(0, "ns/op")
	for name, d := range spent {
		b.ReportMetric(float64(batch*b.N)/d.Seconds(), name+"-pairs/s")
	}
}

func addDel(b *testing.B, r *cnilab.Runtime, id string, took func(verb string, d time.Duration)) {
	b.Helper()
	pod := netlab.New(b)
	conf := cnilab.Attachment(id, pod)
	start := time.Now()
	if _, err := r.Add(b.Context(), conf); err != nil {
		b.Error(err)
	}
	took("add", time.Since(start))
	start = time.Now()
	if err := r.Del(b.Context(), conf); err != nil {
		b.Error(err)
	}
	took("del", time.Since(start))
}
